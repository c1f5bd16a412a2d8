// Light, dark, or as the system has it; remembered by the browser.

import { byId } from "/page/elements.js";

const THEMES = { "": "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };

function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  byId("theme").textContent = THEMES[name];
  try {
    localStorage.setItem("fieldmark-theme", name);
  } catch {
    // without storage the choice lasts as long as the page
  }
}

export function startTheme() {
  let stored = "";
  try {
    stored = localStorage.getItem("fieldmark-theme") || "";
  } catch {
    // see above
  }
  setTheme(stored in THEMES ? stored : "");
  const names = Object.keys(THEMES);
  byId("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || "";
    setTheme(names[(names.indexOf(now) + 1) % names.length]);
  });
}
