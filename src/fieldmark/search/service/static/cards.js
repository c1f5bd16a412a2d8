// What was found, as cards.

import { show } from "/page/api.js";
import { breakable, el, nameOf, titleOf } from "/page/elements.js";

const SHOWN_FACTS = 2;
const SHORTEST = 0.05; // of a bar

// range: lowest and highest score shown. The bar is full at the highest and shortest at the lowest: scores of one encoder lie
// close together, and bars from 0 to 1 would all look alike. like(id, kind, other) moves a result to the examples of a kind;
// open(id) explains it.
export function card(hit, [low, high], like, open) {
  const name = nameOf(hit.path);
  const image = el("img", { alt: "", loading: "lazy", width: 256, height: 256 });
  show(image, `/items/${hit.id}/thumbnail?size=256`);
  const known = factsBeyond(name, hit.metadata).map(([column, value]) => el("span", {}, `${titleOf(column)}: ${value}`));
  return el(
    "li",
    { class: "card" },
    el("button", { type: "button", class: "picture", "data-id": hit.id, "aria-label": `Explain the match with ${name}, rank ${hit.rank}, score ${hit.score.toFixed(3)}`, onclick: () => open(hit.id) }, image),
    el("div", { class: "card-text" },
      el("p", { class: "name" }, breakable(name)),
      el("p", { class: "facts" }, known),
      el("p", { class: "score", title: `Bar: from the lowest score shown, ${low.toFixed(3)}, to the highest, ${high.toFixed(3)}` },
        el("meter", { min: 0, max: 1, value: high > low ? SHORTEST + (1 - SHORTEST) * (hit.score - low) / (high - low) : 1, "aria-hidden": "true" }), hit.score.toFixed(3))),
    el("div", { class: "card-actions" },
      el("button", { type: "button", "aria-label": `More like this: ${name}`, onclick: () => like(hit.id, "more", "less") }, "More like this"),
      el("button", { type: "button", "aria-label": `Less like this: ${name}`, onclick: () => like(hit.id, "less", "more") }, "Less like this")),
  );
}

// The first columns of text that tell more than the name does.
function factsBeyond(name, metadata) {
  const said = name.toLowerCase();
  return Object.entries(metadata).filter(([, value]) => typeof value === "string" && value && !said.includes(value.toLowerCase())).slice(0, SHOWN_FACTS);
}

export function skeletons(count) {
  return Array.from({ length: Math.min(12, count) }, () => el("li", { class: "skeleton", "aria-hidden": "true" }));
}
