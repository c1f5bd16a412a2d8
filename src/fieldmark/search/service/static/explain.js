// The dialog that shows why two pictures match: heat over both, and the pairs of regions that carry most.

import { post, show, showBlob } from "/page/api.js";
import { byId, breakable, el, nameOf, problem, titleOf } from "/page/elements.js";
import { find } from "/page/store.js";

const VIEWS = [
  ["similarity", "What makes them alike"],
  ["difference", "What keeps them apart"],
  ["attention", "Where the encoder looks"],
  ["plain", "The pictures alone"],
];
const LEGENDS = {
  similarity: (most, centred) => `Orange: alike${centred ? " beyond what all pictures share" : ""}. Blue: works against it. Dark: 0. Full colour: ${most}.`,
  difference: (most) => `Orange: keeps them apart. Blue: draws them together. Dark: 0. Full colour: ${most}.`,
  attention: (most) => `Orange: weighs in the embedding. Dark: 0. Full colour: ${most}, and all regions of a picture together 1.`,
  plain: () => "",
};
const STANDS_OUT = 4; // times what a pair would carry of a similarity of 1 if all pairs carried alike

// other: {kind: "item" | "picture", value} of the query, or null; asked: what it is called. hit: the result, or another item: id, path and metadata.
export async function fillExplanation(other, asked, hit, about) {
  const body = byId("explanation-body");
  const full = el("a", { href: `/items/${hit.id}/image`, target: "_blank", rel: "noopener" }, "Full size");
  if (!about.explains || !other) {
    const why = about.explains
      ? "The query has no picture to compare with."
      : "Matches of this encoder cannot be split over regions.";
    body.replaceChildren(figure(itemImage(hit), breakable(hit.path)).box, el("p", { class: "soft" }, why), facts(hit), el("p", {}, full));
    return;
  }
  body.replaceChildren(el("p", { class: "soft", role: "status" }, "Asking the encoder …"));
  const pictures = [];
  const query = { a: { id: other.value }, b: { id: hit.id } };
  const image = el("img", { alt: "The picture that was asked for" });
  if (other.kind === "picture") {
    const blob = await find(other.value);
    if (!blob) {
      body.replaceChildren(problem("The picture is not in this browser", "The link was made with a picture that was dropped elsewhere."));
      return;
    }
    query.a = { image: 0 };
    pictures.push(blob);
    showBlob(image, blob);
  } else {
    show(image, `/items/${other.value}/image`);
  }
  let found;
  try {
    found = await post("/explain", query, pictures);
  } catch (error) {
    body.replaceChildren(problem("No explanation", error.message));
    return;
  }
  const a = figure(image, asked);
  const b = figure(itemImage(hit), breakable(hit.path));
  draw(body, found, a, b, [facts(hit), el("p", {}, full)]);
}

function draw(body, found, a, b, rest) {
  let view = "similarity";
  let chosen = null;
  const centred = found.centred_cosine !== null;
  const legend = el("p", { class: "soft small" });
  const paint = () => {
    const marked = chosen === null ? null : carrying[chosen];
    const [left, right] = view === "plain" ? [null, null] : [found[`${view}_a`], found[`${view}_b`]];
    const most = view === "plain" ? 0 : largest(left, right);
    heat(a.canvas, found.grid_a, left, most, marked?.a);
    heat(b.canvas, found.grid_b, right, most, marked?.b);
    legend.textContent = LEGENDS[view](most < 1e-6 ? 0 : Number(most.toPrecision(2)), centred);
    buttons.forEach((one, number) => one.setAttribute("aria-pressed", String(number === chosen)));
  };
  const radios = VIEWS.map(([name, label]) =>
    el("label", {}, el("input", { type: "radio", name: "view", value: name, checked: name === view, onchange: () => { view = name; paint(); } }), label));
  const alike = 1 / (found.grid_a[0] * found.grid_a[1] * found.grid_b[0] * found.grid_b[1]);
  const carrying = found.correspondences.filter((pair) => pair.specific >= STANDS_OUT * alike);
  const buttons = carrying.map((pair, number) =>
    el("button", { type: "button", onclick: () => { chosen = chosen === number ? null : number; paint(); } },
      `${place(pair.a, found.grid_a)} ↔ ${place(pair.b, found.grid_b)}: ${pair.contribution.toFixed(3)}`));
  follow(a.canvas, found, 0, (regions) => view !== "plain" && heat(b.canvas, found.grid_b, regions, largest(regions), null), paint);
  follow(b.canvas, found, 1, (regions) => view !== "plain" && heat(a.canvas, found.grid_a, regions, largest(regions), null), paint);
  body.replaceChildren(
    el("p", {}, "Similarity ", el("b", {}, found.cosine.toFixed(3)), ...told(found)),
    el("div", { class: "views", role: "radiogroup", "aria-labelledby": "views-title" }, el("span", { id: "views-title" }, "Show"), radios),
    el("div", { class: "duo" }, a.box, b.box),
    legend,
    el("h3", { id: "pairs-title" }, carrying.length ? "Pairs of regions that carry most" : "No pair of regions stands out"),
    el("ol", { class: "pairs", "aria-labelledby": "pairs-title" }, buttons.map((one) => el("li", {}, one))),
    ...rest,
  );
  paint();
}

// What is explained: how much nearer the two are than pictures of the collection on average, or the plain similarity.
function told(found) {
  if (found.centred_cosine === null) return [": the sum of what all pairs of regions carry. This collection has too few different pictures to tell what all of them share."];
  return ["; ", el("b", {}, found.centred_cosine.toFixed(2)), " after taking away what all pictures of this collection share: the sum over all pairs of regions."];
}

function figure(image, caption) {
  const canvas = el("canvas", { "aria-hidden": "true" });
  const layers = el("div", { class: "layers" }, image, canvas);
  const fit = () => image.naturalWidth && layers.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  image.addEventListener("load", fit);
  fit(); // it may be here already
  return { canvas, box: el("figure", {}, layers, el("figcaption", {}, caption)) };
}

function itemImage(hit) {
  const image = el("img", { alt: `Result: ${nameOf(hit.path)}` });
  show(image, `/items/${hit.id}/image`);
  return image;
}

function facts(hit) {
  const known = Object.entries(hit.metadata).filter(([, value]) => value !== null);
  return el("p", { class: "soft small" }, known.map(([name, value]) => `${titleOf(name)}: ${value}`).join(" · "));
}

function place([row, column], [rows, columns]) {
  const vertical = row < rows / 3 ? "top" : row >= (2 * rows) / 3 ? "bottom" : "middle";
  const horizontal = column < columns / 3 ? "left" : column >= (2 * columns) / 3 ? "right" : "centre";
  return `${vertical} ${horizontal} (${row + 1}, ${column + 1})`;
}

function largest(...grids) {
  return Math.max(1e-12, ...grids.flat(2).map(Math.abs));
}

// Red, green, blue and opacity of values 0, `most` and −`most`. What carries nothing lies in the dark, so that colours of the
// picture itself are not taken for heat.
const VEIL = [14, 16, 24, 180];
const WARM = [255, 165, 40, 85];
const COLD = [60, 130, 255, 130];

// values: of the regions, or null for none.
function heat(canvas, [rows, columns], values, most, marked) {
  canvas.width = canvas.height = 384;
  const context = canvas.getContext("2d");
  if (values) {
    const small = el("canvas", { width: columns, height: rows });
    const pixels = new ImageData(columns, rows);
    values.flat().forEach((value, i) => {
      const strength = Math.abs(value) / most;
      const full = value > 0 ? WARM : COLD;
      pixels.data.set(VEIL.map((dark, k) => dark + strength * (full[k] - dark)), 4 * i);
    });
    small.getContext("2d").putImageData(pixels, 0, 0);
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
  }
  if (!marked) return;
  context.lineWidth = 3;
  for (const [colour, inset] of [["#000", 1.5], ["#fff", 4.5]]) {
    context.strokeStyle = colour;
    context.strokeRect((marked[1] * canvas.width) / columns + inset, (marked[0] * canvas.height) / rows + inset,
      canvas.width / columns - 2 * inset, canvas.height / rows - 2 * inset);
  }
}

// The pointer over a region of one picture shows what this region carries with each region of the other.
function follow(canvas, found, side, paintOther, back) {
  if (!found.contribution) return;
  const [rows, columns] = side === 0 ? found.grid_a : found.grid_b;
  const [otherRows, otherColumns] = side === 0 ? found.grid_b : found.grid_a;
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
    const column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * columns)));
    const at = row * columns + column;
    const values = side === 0 ? found.contribution[at] : found.contribution.map((line) => line[at]);
    paintOther(Array.from({ length: otherRows }, (_, i) => values.slice(i * otherColumns, (i + 1) * otherColumns)));
  });
  canvas.addEventListener("pointerleave", back);
}
