// The page: the state is in the address, every change searches again.

import { get, post, setToken, show } from "/page/api.js";
import { card, skeletons } from "/page/cards.js";
import { byId, el, nameOf, problem } from "/page/elements.js";
import { fillExplanation } from "/page/explain.js";
import { drawQuery } from "/page/query.js";
import { askedFor, asksForSomething, emptyState, fromAddress, isAboutExpression, partName, pictureOfQuery, toAddress, toRequest } from "/page/state.js";
import { find, keep } from "/page/store.js";
import { startTheme } from "/page/theme.js";

const PATIENT_MS = 150; // a search that is quicker shows no placeholders
const TRIES = 3;
let about = null;
let state = fromAddress(location.search);
let hits = [];
let running = null;
let explained = ""; // the item that the dialog shows, or showed last
let adjusted = null; // the slider that is being moved: its steps are one entry of the history
let bring = false; // the results into view, once they are there
const NARROW = matchMedia("(max-width: 50rem)"); // as in page.css

function change(edit, slider = null) {
  const next = structuredClone(state);
  edit(next);
  next.explain = "";
  if (!asksForSomething(state)) bring = NARROW.matches;
  go(next, slider);
}

function go(next, slider = null) {
  state = next;
  if (slider !== null && slider === adjusted) history.replaceState(null, "", toAddress(state));
  else history.pushState(null, "", toAddress(state));
  adjusted = slider;
  refresh();
}

// Changes what is shown. If that takes away what has the focus, it goes to the results, not to the page's beginning.
function redraw(place, edit) {
  const lost = place.contains(document.activeElement);
  edit(place);
  if (lost) byId("results").focus({ preventScroll: true });
}

function refresh() {
  drawQuery(state, about, change);
  search();
}

// ---- searching

async function search(tries = 0) {
  running?.abort();
  const controller = (running = new AbortController());
  clearProblems();
  redraw(byId("nothing"), (one) => (one.hidden = true));
  if (asksForSomething(state)) redraw(byId("start"), (one) => (one.hidden = true));
  else byId("start").hidden = false;
  document.title = title();
  if (!asksForSomething(state)) {
    hits = [];
    redraw(byId("grid"), (one) => one.replaceChildren());
    byId("grid").removeAttribute("aria-busy");
    byId("status").textContent = "";
    showExplanation();
    return;
  }
  byId("grid").setAttribute("aria-busy", "true");
  byId("status").textContent = "Searching …";
  const placeholders = setTimeout(() => redraw(byId("grid"), (one) => one.replaceChildren(...skeletons(state.k))), PATIENT_MS);
  try {
    const { query, keys } = toRequest(state, about.columns);
    const pictures = await Promise.all(keys.map(find));
    if (pictures.includes(null)) {
      fail(problem("A picture of this link is not in this browser", "Pictures that were dropped are kept by the browser they were dropped in. Drop it again.", removeMissing(keys, pictures)));
      return;
    }
    const found = await post("/search", query, pictures, controller.signal);
    clearTimeout(placeholders);
    hits = found.hits;
    drawHits(found);
    if (bring) byId("results").scrollIntoView();
    bring = false;
    showExplanation();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.code === "overloaded" && tries < TRIES) {
      waitAndTry(Math.max(1, error.retryAfter), tries, controller);
      return;
    }
    failed(error);
  } finally {
    clearTimeout(placeholders);
    if (running === controller && !controller.waits) byId("grid").removeAttribute("aria-busy");
  }
}

function waitAndTry(seconds, tries, controller) {
  controller.waits = true;
  byId("status").textContent = `The service is busy. Trying again in ${seconds} s …`;
  const timer = setTimeout(() => search(tries + 1), 1000 * seconds);
  controller.signal.addEventListener("abort", () => clearTimeout(timer));
}

function failed(error) {
  if (error.code === "token_needed") {
    fail(tokenForm());
    return;
  }
  const titles = {
    no_answer: "No answer", overloaded: "The service is busy", no_picture: "This is no picture", bad_picture: "This picture cannot be used",
    too_large: "Too large", bad_query: "This query cannot be answered", internal: "Something went wrong",
  };
  if (isAboutExpression(error, state)) {
    failBeside("where", "where-problem", error.message, "No results: the filter's expression cannot be read.");
    return;
  }
  const title = titles[error.code] || "No result";
  if (["no_picture", "bad_picture", "too_large"].includes(error.code)) {
    const [name, remove] = meant(error.picture);
    const box = problem(title, `${name}${error.message}`, el("button", { type: "button", onclick: remove }, "Remove the picture"));
    failBeside("file", "refused-picture", box, "No results: a picture cannot be used.");
    return;
  }
  const ways = { no_answer: ["Try again", () => (about ? search() : begin())], bad_filter: ["Remove the filters", dropFilters] };
  ways.overloaded = ways.no_answer; // all else would be refused again
  const [label, onclick] = ways[error.code] || [];
  fail(problem(title, error.message, label ? el("button", { type: "button", onclick }, label) : null));
}

// A mistake in a field is told there: the results, with what is told at their head, may be far from it.
function failBeside(field, place, content, status) {
  fail(null);
  byId("status").textContent = status;
  byId(place).replaceChildren(content);
  byId(field).setAttribute("aria-invalid", "true");
  for (let one = byId(place); one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
  byId(place).scrollIntoView({ block: "nearest" });
}

function clearProblems() {
  for (const id of ["problem", "notes", "where-problem", "refused-picture"]) redraw(byId(id), (one) => one.replaceChildren());
  for (const id of ["where", "file"]) byId(id).removeAttribute("aria-invalid");
}

// Of the request's picture that was refused: what it is called, and a function that removes it. Without a number, all are.
function meant(number) {
  const pictures = state.parts.filter((part) => part.kind === "picture");
  const refused = number === null ? pictures : pictures.slice(number, number + 1);
  const keep = (part) => !refused.some((one) => one.value === part.value);
  const name = pictures.length > 1 && refused.length === 1 ? `${partName(state, refused[0])}: ` : "";
  return [name, () => change((s) => (s.parts = s.parts.filter(keep)))];
}

function fail(content) {
  hits = [];
  redraw(byId("grid"), (one) => one.replaceChildren());
  byId("status").textContent = "";
  byId("problem").replaceChildren(...(content ? [content] : []));
  bring = false;
  closeExplanation();
}

function dropFilters() {
  change((s) => { s.filters = []; s.where = ""; });
}

function removeMissing(keys, pictures) {
  const missing = keys.filter((_, i) => pictures[i] === null);
  const remove = () => change((s) => (s.parts = s.parts.filter((part) => part.kind !== "picture" || !missing.includes(part.value))));
  return el("button", { type: "button", onclick: remove }, "Search without it");
}

function tokenForm() {
  const form = byId("token-template").content.cloneNode(true).firstElementChild;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(form.querySelector("input").value.trim());
    clearProblems();
    begin();
  });
  return form;
}

// ---- results

function drawHits(found) {
  const scores = found.hits.map((hit) => hit.score);
  const range = [Math.min(...scores), Math.max(...scores)];
  redraw(byId("grid"), (one) => one.replaceChildren(...found.hits.map((hit) => card(hit, range, like, openExplanation))));
  const filtered = state.filters.length > 0 || state.where;
  byId("nothing").hidden = found.hits.length > 0 || !filtered;
  const count = found.hits.length === 1 ? "1 result" : `${found.hits.length} results`;
  byId("status").textContent = `${count} in ${found.seconds.toFixed(2)} s`;
  found.notes.forEach(tell);
}

// What was not done as it was asked; under the results' heading.
function tell(note) {
  byId("notes").append(el("p", {}, `${note[0].toUpperCase()}${note.slice(1)}.`));
}

function like(id, kind, other) {
  change((s) => {
    s[other] = s[other].filter((one) => one !== id);
    if (!s[kind].includes(id)) s[kind].push(id);
  });
}

function title() {
  const words = state.parts.filter((part) => part.kind === "words").map((part) => part.value);
  const what = words.join(", ") || (asksForSomething(state) ? "by picture" : "");
  return what ? `${what} – Fieldmark search` : "Fieldmark search";
}

// ---- explanation

function openExplanation(id) {
  state = { ...state, explain: id };
  history.pushState(null, "", toAddress(state));
  showExplanation();
}

// Of a link, it may be an item that is not among the results: it is asked for.
async function showExplanation() {
  const id = state.explain;
  if (!id) {
    closeExplanation();
    return;
  }
  let hit = hits.find((one) => one.id === id);
  if (!hit) {
    try {
      hit = await get(`/items/${id}`);
    } catch (error) {
      if (state.explain === id) noExplanation(error);
      return;
    }
    if (state.explain !== id) return;
  }
  explained = id;
  const dialog = byId("explanation");
  if (!dialog.open) dialog.showModal();
  byId("explanation-title").focus();
  const other = pictureOfQuery(state);
  fillExplanation(other, other && askedFor(state, other), hit, about);
}

function noExplanation(error) {
  const why = error.code === "not_found" ? "it is not in this index (any more)" : error.message;
  tell(`there is no explanation of item ${state.explain.slice(0, 6)}, which the link names: ${why}`);
  state = { ...state, explain: "" };
  history.replaceState(null, "", toAddress(state));
  closeExplanation();
}

function closeExplanation() {
  const dialog = byId("explanation");
  if (dialog.open) dialog.close();
}

function closedByHand() {
  if (state.explain) {
    state = { ...state, explain: "" };
    history.pushState(null, "", toAddress(state));
  }
  (byId("grid").querySelector(`[data-id="${explained}"]`) || byId("results")).focus();
}

// ---- what people give

async function addPictures(files) {
  const box = byId("picture-problem");
  box.replaceChildren();
  const free = about.max_pictures - state.parts.filter((part) => part.kind === "picture").length;
  const wanted = [...files].slice(0, free);
  if (files.length > free) box.replaceChildren(problem("Too many pictures", `A query has ${about.max_pictures} pictures at most.`));
  const keys = [];
  for (const file of wanted) {
    if (file.size > about.max_picture_bytes) {
      const megabytes = (about.max_picture_bytes / 2 ** 20).toFixed(0);
      box.replaceChildren(problem("Too large", `${file.name} is larger than ${megabytes} MB: scale it down.`));
    } else if (file.size === 0) {
      box.replaceChildren(problem("Empty", `${file.name} holds nothing.`));
    } else {
      keys.push(await keep(file));
    }
  }
  if (keys.length) change((s) => keys.forEach((value) => s.parts.push({ kind: "picture", weight: 1, value })));
}

function listen() {
  const drop = byId("drop");
  byId("file").addEventListener("change", (event) => {
    addPictures([...event.target.files]);
    event.target.value = "";
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") addPictures(event.dataTransfer.files);
    });
  }
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files || [])];
    if (files.length) {
      event.preventDefault();
      addPictures(files);
    }
  });
  byId("words-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const value = byId("words").value.trim();
    const long = value.length > about.max_text; // refused rather than cut: the end of a text may be what matters
    byId("words-problem").textContent = long ? `These words have ${value.length} characters, ${about.max_text} are allowed: shorten them.` : "";
    if (long) return;
    byId("words").value = "";
    if (value) change((s) => s.parts.push({ kind: "words", weight: 1, value }));
  });
  byId("where-form").addEventListener("submit", (event) => {
    event.preventDefault();
    byId("where").value = byId("where").value.trim(); // places in errors are counted from its first character
    change((s) => (s.where = byId("where").value));
  });
  byId("count").addEventListener("change", (event) => change((s) => (s.k = Number(event.target.value))));
  byId("clear").addEventListener("click", () => {
    go(emptyState());
    byId("file").focus();
  });
  byId("drop-filters").addEventListener("click", dropFilters);
  NARROW.addEventListener("change", fold);
  byId("close").addEventListener("click", () => byId("explanation").close());
  byId("explanation").addEventListener("close", closedByHand);
  addEventListener("popstate", () => {
    if (!about) return;
    state = fromAddress(location.search);
    adjusted = null;
    refresh();
  });
  // whoever comes back to a slider, or takes it up again, begins another adjustment
  document.addEventListener("focusin", (event) => { if (event.target.dataset?.part !== adjusted) adjusted = null; });
  document.addEventListener("pointerdown", () => (adjusted = null));
}

// On a narrow screen the filters are folded, so that results begin near the top; on a wide one they have their place.
function fold() {
  byId("narrowing").open = !NARROW.matches;
}

// ---- the beginning

async function begin() {
  try {
    about = await get("/about");
  } catch (error) {
    failed(error);
    return;
  }
  clearProblems();
  byId("collection").textContent = `${about.rows.toLocaleString("en")} pictures in ${about.name}, encoder ${about.encoder}`;
  byId("words-form").hidden = !about.reads_words;
  byId("no-words").hidden = about.reads_words;
  const columns = Object.entries(about.columns).map(([name, kind]) => `${name} (${kind})`).join(", ");
  byId("where-help").textContent = `Columns: ${columns || "none"}, width, height, size, path. Example: width >= 64`;
  const ways = about.reads_words ? "Give pictures, words, or both" : "Give one picture or several";
  byId("start-text").textContent = about.rows
    ? `${ways}, and weigh them against each other. A weight below 0 leads away from a part.`
    : "The index is empty: add pictures with fieldmark index build.";
  refresh();
  drawSamples();
}

async function drawSamples() {
  let items = [];
  try {
    ({ items } = await get("/items?limit=12"));
  } catch {
    // the page works without them
  }
  byId("samples-title").hidden = items.length === 0;
  byId("samples").replaceChildren(
    ...items.map((item) => {
      const image = el("img", { alt: "" });
      show(image, `/items/${item.id}/thumbnail?size=256`);
      const take = () => change((s) => s.parts.push({ kind: "item", weight: 1, value: item.id }));
      return el("li", {}, el("button", { type: "button", "aria-label": `Look for ${nameOf(item.path)}`, onclick: take }, image));
    }),
  );
}

startTheme();
fold();
listen();
begin();
