"use strict";
document.documentElement.classList.add("js");

// Sort a table by the column whose heading is clicked or activated with Enter or Space; empty cells are always last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const sort = column => {
    const down = heads[column].getAttribute("aria-sort") !== "descending";
    heads.forEach(head => head.setAttribute("aria-sort", "none"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      const [noX, noY] = [x === "–" || x === "", y === "–" || y === ""];
      if (noX || noY) return noX - noY;
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  };
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    head.setAttribute("aria-sort", "none");
    head.addEventListener("click", () => sort(column));
    head.addEventListener("keydown", event => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort(column);
    });
  });
}

// A slider selects the slice of its plane in all columns; the frames are parsed when it is first moved.
for (const plane of document.querySelectorAll(".plane")) {
  const images = plane.querySelectorAll("img");
  const [slider, place] = [plane.querySelector("input[type=range]"), plane.querySelector("output")];
  const kind = images[0].src.slice(0, images[0].src.indexOf(",") + 1);
  let stack = null;
  slider.addEventListener("input", () => {
    if (plane.closest(".linked")) return;
    stack ??= JSON.parse(plane.querySelector("script.frames").textContent);
    images.forEach((image, column) => {
      image.src = kind + stack.frames[column][slider.value];
    });
    for (const mark of plane.querySelectorAll(".mark")) {
      mark.hidden = +slider.value < +mark.dataset.first || +slider.value > +mark.dataset.last;
    }
    place.value = stack.places[slider.value];
    slider.setAttribute("aria-valuetext", place.value);
  });
}

// The button of a finding moves all planes of its case to that finding.
for (const button of document.querySelectorAll("button[data-slices]")) {
  button.addEventListener("click", () => {
    const viewer = button.closest("section").querySelector(".viewer");
    const slices = button.dataset.slices.split(",").map(Number);
    if (viewer.show) viewer.show(slices);
    else viewer.querySelectorAll(".plane input[type=range]").forEach((slider, plane) => {
      slider.value = slices[plane];
      slider.dispatchEvent(new Event("input"));
    });
    viewer.scrollIntoView({ block: "start" });
  });
}
