// The state of the page as a value, and as the page's address: what is in the address can be sent to others, and the
// back button returns to it. Pictures that were dropped are not in it, only their key; see store.js.

export const COUNTS = [12, 24, 48, 96];

export function emptyState() {
  return { parts: [], more: [], less: [], filters: [], where: "", k: 24, explain: "" };
}

// part: {kind: "words" | "item" | "picture", weight, value}; value: the words, an id, or a key of the store
const LETTER = { words: "t", item: "i", picture: "p" };
const KIND = { t: "words", i: "item", p: "picture" };
const IS_ID = /^[0-9a-f]{16}$/;

export function toAddress(state) {
  const found = new URLSearchParams();
  for (const part of state.parts) found.append("part", `${LETTER[part.kind]}:${part.weight}:${part.value}`);
  for (const id of state.more) found.append("more", id);
  for (const id of state.less) found.append("less", id);
  for (const one of state.filters) found.append("filter", `${one.column}:${one.value}`);
  if (state.where) found.set("where", state.where);
  if (state.k !== emptyState().k) found.set("k", state.k);
  if (state.explain) found.set("explain", state.explain);
  const text = found.toString();
  return text ? `/?${text}` : "/";
}

// Addresses come from anyone: whatever does not fit is left out. Words and conditions are never cut, which would ask for
// something else: the service says what is too long.
export function fromAddress(text) {
  const given = new URLSearchParams(text);
  const state = emptyState();
  for (const one of given.getAll("part").slice(0, 16)) {
    const match = /^([tip]):(-?[0-9.]{1,8}):([^]+)$/.exec(one);
    const weight = match ? Number(match[2]) : NaN;
    if (!Number.isFinite(weight) || Math.abs(weight) > 1) continue;
    const kind = KIND[match[1]];
    if (kind === "item" && !IS_ID.test(match[3])) continue;
    state.parts.push({ kind, weight, value: match[3] });
  }
  const ids = (name) => [...new Set(given.getAll(name).filter((id) => IS_ID.test(id)))].slice(0, 64);
  state.more = ids("more");
  state.less = ids("less");
  for (const one of given.getAll("filter").slice(0, 64)) {
    const at = one.indexOf(":");
    if (at > 0) state.filters.push({ column: one.slice(0, at), value: one.slice(at + 1) });
  }
  state.where = given.get("where") || "";
  const k = Number(given.get("k"));
  if (COUNTS.includes(k)) state.k = k;
  if (IS_ID.test(given.get("explain") || "")) state.explain = given.get("explain");
  return state;
}

export function asksForSomething(state) {
  return state.parts.length > 0 || state.more.length > 0;
}

// The body of POST /search, and the keys of the pictures that go with it, in their order.
export function toRequest(state, columns) {
  const keys = [];
  const parts = state.parts.map((part) => {
    if (part.kind === "words") return { weight: part.weight, text: part.value };
    if (part.kind === "item") return { weight: part.weight, id: part.value };
    keys.push(part.value);
    return { weight: part.weight, image: keys.length - 1 };
  });
  const query = { parts, more_like: state.more, less_like: state.less, k: state.k };
  const where = conditions(state, columns);
  if (where.length) query.where = where;
  return { query, keys };
}

// Conditions that all have to hold. The service reads each by itself, so that no bracket of the expression can undo the
// others; the expression is the first, as it was typed. Values of one column are alternatives.
export function conditions(state, columns) {
  const byColumn = new Map();
  for (const { column, value } of state.filters) {
    if (!byColumn.has(column)) byColumn.set(column, []);
    byColumn.get(column).push(columns[column] === "bool" ? value.toUpperCase() : `'${value.replaceAll("'", "''")}'`);
  }
  const parts = [...byColumn].map(([column, values]) => `\`${column.replaceAll("`", "")}\` IN (${values.join(", ")})`);
  return state.where.trim() ? [state.where, ...parts] : parts;
}

// Whether an error of the service is about the expression.
export function isAboutExpression(error, state) {
  return error.code === "bad_filter" && error.where === 0 && state.where.trim() !== "";
}

// What a part is called on the page. Pictures that were dropped are counted by themselves, as the service counts them.
export function partName(state, part) {
  const dropped = state.parts.filter((one) => one.kind === "picture");
  return { words: `“${part.value}”`, item: `Item ${part.value.slice(0, 6)}`, picture: `Your picture ${dropped.indexOf(part) + 1}` }[part.kind];
}

// The picture that results are compared with: the heaviest one of the query, or its first example.
export function pictureOfQuery(state) {
  const pictures = state.parts.filter((part) => part.kind !== "words" && part.weight > 0);
  pictures.sort((one, other) => other.weight - one.weight);
  if (pictures.length) return pictures[0];
  return state.more.length ? { kind: "item", value: state.more[0] } : null;
}

// What this picture is called where it stands beside a result: which of the query's, where there are several.
export function askedFor(state, other) {
  const pictures = state.parts.filter((part) => part.kind !== "words" && part.weight > 0);
  const alone = pictures.filter((one) => one.weight === other.weight).length === 1; // none is heavier: it was chosen for that
  if (pictures.length > 1) return `Asked for: ${partName(state, other)}, ${alone ? "the heaviest" : "the first"} of ${pictures.length}`;
  if (!pictures.length && state.more.length > 1) return `Asked for: Item ${other.value.slice(0, 6)}, the first of “More like these”`;
  return "Asked for";
}
