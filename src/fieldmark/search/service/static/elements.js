// Elements by construction: text is always text, never markup.

export function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "class") made.className = value;
    else if (key in made && !key.includes("-")) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

export function problem(title, message, ...more) {
  return el("div", { class: "problem" }, el("h3", {}, title), el("p", {}, message), ...more);
}

// Text that may break behind these signs, so that it need not break inside words and numbers.
export function breakable(text) {
  return text.split(/(?<=[/_.-])/).flatMap((piece, place) => (place ? [el("wbr"), piece] : [piece]));
}

// A column as people read it.
export const titleOf = (column) => column.replaceAll("_", " ");

// The end of a path without its ending: what people call a picture. With its folder, since many are called "001".
export function nameOf(path) {
  return path.split("/").slice(-2).join("/").replace(/\.[A-Za-z0-9]{1,5}$/, "");
}
