// Point at a patch, or walk there with the arrow keys: the other picture shows what the two carry together.
(function () {
  "use strict";
  var board = document.getElementById("board");
  if (!board) return;
  var told = document.getElementById("told");
  var cosine = Number(board.dataset.cosine);
  var sides = ["a", "b"].map(function (name) {
    var group = document.getElementById("patches-" + name);
    return { group: group, columns: Number(group.dataset.columns), patches: Array.from(group.querySelectorAll("rect")) };
  });
  // Thousandths of the largest contribution, a row per patch of a.
  var rows = sides[0].patches.map(function (patch) { return patch.dataset.row.split(" ").map(Number); });
  var largest = Number(board.dataset.largest);

  function contributions(side, index) {
    return side === 0 ? rows[index] : rows.map(function (row) { return row[index]; });
  }
  function place(side, index) {
    var columns = sides[side].columns;
    return "row " + (Math.floor(index / columns) + 1) + ", column " + (index % columns + 1);
  }
  function show(side, index) {
    var values = contributions(side, index), other = sides[1 - side].patches;
    var top = Math.max.apply(null, values), low = Math.min.apply(null, values), best = values.indexOf(top);
    var sum = values.reduce(function (total, value) { return total + value; }, 0) * largest / 1000;
    sides.forEach(function (one) { one.patches.forEach(function (patch) { patch.removeAttribute("class"); }); });
    other.forEach(function (patch, k) {
      patch.setAttribute("fill-opacity", top > low ? 0.85 * (values[k] - low) / (top - low) : 0);
    });
    sides[side].patches.forEach(function (patch) { patch.setAttribute("fill-opacity", 0); });
    sides[side].patches[index].setAttribute("class", "pointed");
    other[best].setAttribute("class", "answering");
    // A share of a sum near zero, or below it, says nothing.
    var share = cosine > 0.05 ? " (" + (100 * sum / cosine).toFixed(1) + " %)" : "";
    told.textContent = "Picture " + (side + 1) + ", " + place(side, index) + ": carries " + sum.toFixed(4) + " of the " + board.dataset.of + " " +
      cosine.toFixed(3) + share + ", most of it with " + place(1 - side, best) + " of picture " + (2 - side) + ".";
  }
  document.getElementById("pointing").hidden = false;
  sides.forEach(function (one, side) {
    one.group.removeAttribute("hidden");
    one.patches.forEach(function (patch, index) {
      patch.setAttribute("tabindex", index === 0 ? "0" : "-1");
      patch.addEventListener("pointerenter", function () { show(side, index); });
      patch.addEventListener("focus", function () { show(side, index); });
      patch.addEventListener("keydown", function (event) {
        var step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -one.columns, ArrowDown: one.columns }[event.key];
        var next = step === undefined ? undefined : one.patches[index + step];
        if (!next) return;
        event.preventDefault();
        patch.setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      });
    });
  });
})();
