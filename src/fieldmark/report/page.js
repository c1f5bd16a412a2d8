// Everything in the report can be read without this script; it only adds switches.
(function () {
  "use strict";
  var root = document.documentElement;

  var theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", function () {
    var dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  var sliders = document.querySelectorAll(".heat-slider");
  sliders.forEach(function (slider) {
    slider.closest("label").hidden = false;
    slider.addEventListener("input", function () {
      root.style.setProperty("--heat", slider.value / 100);
      sliders.forEach(function (other) { other.value = slider.value; });
    });
  });

  var chooser = document.getElementById("chooser");
  if (chooser) {
    chooser.hidden = false;
    chooser.addEventListener("change", function (event) {
      document.querySelectorAll(".answer").forEach(function (answer) {
        if (answer.dataset.method === event.target.value) answer.hidden = !event.target.checked;
      });
    });
  }

  var links = {};
  document.querySelectorAll("nav a").forEach(function (link) { links[link.getAttribute("href").slice(1)] = link; });
  if ("IntersectionObserver" in window) {
    var observer = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) {
        if (!entry.isIntersecting) return;
        Object.keys(links).forEach(function (id) { links[id].removeAttribute("aria-current"); });
        links[entry.target.id].setAttribute("aria-current", "true");
      });
    }, { rootMargin: "-20% 0px -70% 0px" });
    document.querySelectorAll("main > section").forEach(function (section) { observer.observe(section); });
  }
})();
