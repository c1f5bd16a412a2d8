// The left side of the page: what is looked for.

import { show, showBlob } from "/page/api.js";
import { byId, el, titleOf } from "/page/elements.js";
import { partName } from "/page/state.js";
import { find } from "/page/store.js";

const SHOWN_CHIPS = 8;
const OPEN_FACETS = 3;

// change(edit, adjusted): edit the state and search again; adjusted: the slider that was moved, if one was.
export function drawQuery(state, about, change) {
  drawParts(state, change);
  drawExamples(state, change);
  drawFilters(state, about, change);
  if (document.activeElement !== byId("where")) byId("where").value = state.where;
  if (state.where) byId("expression").open = true;
  byId("count").value = state.k;
  const narrowed = state.filters.length + (state.where ? 1 : 0);
  byId("narrowing-title").textContent = narrowed ? `Filters (${narrowed} set)` : "Filters";
  const anything = state.parts.length + state.more.length + state.less.length + state.filters.length > 0 || state.where;
  byId("clear").hidden = !anything;
}

function drawParts(state, change) {
  const list = byId("parts");
  const focused = document.activeElement?.dataset?.part;
  list.replaceChildren(...state.parts.map((part, number) => drawPart(part, number, partName(state, part), change)));
  list.hidden = !state.parts.length;
  if (focused !== undefined) list.querySelector(`[data-part="${focused}"]`)?.focus();
}

function drawPart(part, number, name, change) {
  const output = el("output", {}, part.weight.toFixed(1));
  const slider = el("input", {
    type: "range", min: "-1", max: "1", step: "0.1", value: String(part.weight), "aria-label": `Weight of ${name}`, "data-part": String(number),
    oninput: () => (output.textContent = Number(slider.value).toFixed(1)),
    onchange: () => change((s) => (s.parts[number].weight = Number(slider.value)), String(number)),
  });
  const remove = el(
    "button",
    { type: "button", class: "quiet", "aria-label": `Remove ${name}`, onclick: () => {
      change((s) => s.parts.splice(number, 1));
      focusNear(byId("parts").querySelectorAll("button"), number);
    } },
    "Remove",
  );
  return el(
    "li",
    { class: part.weight < 0 ? "part negative" : "part" },
    part.kind === "words" ? el("span", { class: "word", "aria-hidden": "true" }, "Aa") : thumbnail(part),
    el("span", { class: "name", title: name }, name),
    remove,
    el("span", { class: "weight" }, slider, output),
  );
}

// The focus after a "Remove": on the next one, or where one begins.
function focusNear(buttons, number) {
  (buttons[Math.min(number, buttons.length - 1)] || byId("file")).focus();
}

function thumbnail(part) {
  const image = el("img", { alt: "" });
  if (part.kind === "item") show(image, `/items/${part.value}/thumbnail?size=128`);
  else find(part.value).then((blob) => blob && showBlob(image, blob));
  return image;
}

function drawExamples(state, change) {
  const group = (name, title) =>
    state[name].length
      ? el(
          "div",
          { class: name },
          el("h3", { id: `${name}-title` }, title),
          el("ul", { class: "examples", "aria-labelledby": `${name}-title` }, state[name].map((id) => example(name, title, id, change))),
        )
      : null;
  byId("examples").replaceChildren(...[group("more", "More like these"), group("less", "Less like these")].filter(Boolean));
}

function example(name, title, id, change) {
  const image = el("img", { alt: `Item ${id.slice(0, 6)}` });
  show(image, `/items/${id}/thumbnail?size=128`);
  const remove = () => {
    const number = [...byId("examples").querySelectorAll("button")].indexOf(document.activeElement);
    change((s) => (s[name] = s[name].filter((other) => other !== id)));
    focusNear(byId("examples").querySelectorAll("button"), Math.max(0, number));
  };
  return el(
    "li",
    { class: "example" },
    image,
    el("button", { type: "button", "aria-label": `Remove item ${id.slice(0, 6)} from ${title}`, onclick: remove }, "×"),
  );
}

function drawFilters(state, about, change) {
  const focused = document.activeElement?.dataset?.chip;
  const opened = new Set([...byId("filters").querySelectorAll("details[open]")].map((one) => one.dataset.column));
  byId("filters").replaceChildren(
    ...withChosen(about.facets, state.filters).map(({ column, values, total, whole }, place) => {
      const chips = values.map((value) => chip(state, column, value, change));
      const [name, rest] = [titleOf(column), chips.slice(SHOWN_CHIPS)];
      const more = rest.length
        ? el("details", { "data-column": column, open: opened.has(column) || rest.some((one) => one.ariaPressed === "true") },
            el("summary", {}, `${rest.length} more of ${name}`), el("div", { class: "chips" }, rest))
        : null;
      const open = place < OPEN_FACETS || opened.has(`all ${column}`) || state.filters.some((one) => one.column === column);
      return el("details", { "data-column": `all ${column}`, open }, el("summary", {}, name),
        el("div", { class: "chips", role: "group", "aria-label": name }, chips.slice(0, SHOWN_CHIPS)), more,
        whole && values.length >= total ? null : hidden(column, values.length, total, whole, about.columns[column]));
    }),
  );
  if (focused) [...byId("filters").querySelectorAll("button")].find((one) => one.dataset.chip === focused)?.focus();
}

// Filters come from links, too: what is set is shown, also where the service names no such value or column.
function withChosen(facets, filters) {
  const all = facets.map((one) => ({ ...one, values: [...one.values] }));
  for (const { column, value } of filters) {
    let facet = all.find((one) => one.column === column);
    if (!facet) all.push((facet = { column, values: [], total: 0, whole: true }));
    if (!facet.values.includes(value)) facet.values.push(value);
  }
  return all;
}

// How many values have no chip, and a way to them: the expression, begun for this column.
function hidden(column, shown, total, whole, kind) {
  const quoted = /^[A-Za-z_][A-Za-z0-9_]*$/.test(column) ? column : `\`${column}\``;
  const start = `${quoted} ILIKE '%`;
  const begin = () => {
    const where = byId("where");
    byId("expression").open = true;
    where.value = `${where.value.trim() ? `(${where.value.trim()}) AND ` : ""}${start}%'`;
    where.focus();
    where.setSelectionRange(where.value.length - 2, where.value.length - 2);
  };
  return el("p", { class: "soft small" }, `${shown} of ${whole ? "" : "at least "}${total} values. `,
    kind === "string" ? el("button", { type: "button", class: "link", onclick: begin }, `Find others of ${titleOf(column)}`) : null);
}

function chip(state, column, value, change) {
  const same = (one) => one.column === column && one.value === value;
  const chosen = state.filters.some(same);
  const toggle = () => change((s) => (s.filters = chosen ? s.filters.filter((one) => !same(one)) : [...s.filters, { column, value }]));
  const made = el("button", { type: "button", class: "chip", title: value, "data-chip": `${column}:${value}`, onclick: toggle }, value);
  made.setAttribute("aria-pressed", String(chosen));
  return made;
}
