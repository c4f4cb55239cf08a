// Linked planes: every plane of every image shows the slice through one position, which a click or drag in any of them
// moves. Where the volumes cannot be decoded the sliders stay as they are.
function linkedPlanes(viewer) {
  const data = JSON.parse(viewer.querySelector("script.volumes").textContent);
  const [nx, ny, nz] = data.shape;
  const axes = [{ axis: 2, across: 0, down: 1 }, { axis: 1, across: 0, down: 2 }, { axis: 0, across: 1, down: 2 }];
  const steps = [1, nx, nx * ny];
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const colours = bytes(data.colours);
  const shown = viewer.querySelector("img").src, kind = shown.slice(0, shown.indexOf(",") + 1);  // of JPEG in base64
  const tools = viewer.querySelector(".tools");
  const tool = name => tools.querySelector(`[data-tool="${name}"]`);
  const planes = [...viewer.querySelectorAll(".plane")].map((element, n) => ({
    element,
    ...axes[n],
    slider: element.querySelector("input[type=range]"),
    place: element.querySelector("output"),
    first: +element.dataset.first,
    step: +element.dataset.step,
    figures: [...element.querySelectorAll("figure")],
  }));
  const at = [0, 0, 0];
  let volumes = [];

  // The axial slices of a column lie side by side in one image. Throws if the browser alters the pixels it gives back.
  async function decode(column) {
    const image = new Image();
    image.src = kind + column.jpeg;
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    let sum = 0;
    for (let n = 0; n < pixels.length; n += 4) sum += pixels[n];
    if (Math.abs(sum / (pixels.length / 4) - column.mean) > 1.5) throw new Error("the browser alters the pixels of images");
    const volume = new Uint8Array(nx * ny * nz);
    for (let z = 0, to = 0; z < nz; z++) {
      const top = Math.floor(z / data.tiles) * data.tile[1], left = (z % data.tiles) * data.tile[0];
      for (let y = 0; y < ny; y++) {
        let from = 4 * ((top + y) * canvas.width + left);
        for (let x = 0; x < nx; x++, from += 4) volume[to++] = pixels[from];
      }
    }
    return volume;
  }

  // The grey of each level in the chosen CT window.
  function windowTable() {
    const name = viewer.querySelector(".windows input:checked").value;
    const table = document.querySelector(`#window-${name} feFuncR`).getAttribute("tableValues").trim().split(/\s+/);
    return Uint8ClampedArray.from(table, grey => 255 * grey);
  }

  function draw() {
    const table = viewer.querySelector(".windows") ? windowTable() : null;
    const strength = tool("overlay")?.checked ? tool("opacity").value / 100 : 0;
    for (const plane of planes) {
      const width = data.shape[plane.across], height = data.shape[plane.down];
      const start = at[plane.axis] * steps[plane.axis];
      data.columns.forEach((column, n) => {
        const canvas = plane.figures[n].querySelector("canvas");
        if (plane.figures[n].hidden) return;
        const context = canvas.getContext("2d"), image = context.createImageData(width, height), out = image.data;
        const volume = volumes[n], grey = column.range ? null : table;
        const other = strength ? data.columns.findIndex(c => c.over === n) : -1;
        const difference = other < 0 ? null : volumes[other];
        // Both image axes run against the array's, as in medgen.reports.images.slices.
        for (let row = 0, to = 0; row < height; row++) {
          let from = start + (height - 1 - row) * steps[plane.down] + (width - 1) * steps[plane.across];
          for (let left = 0; left < width; left++, to += 4, from -= steps[plane.across]) {
            const value = volume[from];
            if (column.over !== null) {
              out[to] = colours[3 * value]; out[to + 1] = colours[3 * value + 1]; out[to + 2] = colours[3 * value + 2];
            } else {
              const level = grey ? grey[value] : value;
              out[to] = out[to + 1] = out[to + 2] = level;
              if (difference) {
                const signed = (difference[from] - 127.5) / 127.5, share = strength * Math.max(0, Math.abs(signed) - 0.03);
                const ink = signed > 0 ? [255, 130, 40] : [60, 150, 255];
                for (let c = 0; c < 3; c++) out[to + c] = (1 - share) * level + share * ink[c];
              }
            }
            out[to + 3] = 255;
          }
        }
        context.putImageData(image, 0, 0);
        const [vertical, horizontal] = plane.figures[n].querySelectorAll(".cross");
        vertical.style.left = `${100 * (width - at[plane.across] - 0.5) / width}%`;
        horizontal.style.top = `${100 * (height - at[plane.down] - 0.5) / height}%`;
      });
      for (const mark of plane.element.querySelectorAll(".mark")) {
        const factor = data.factor[plane.axis];  // the box ends halfway between voxels
        const low = Math.floor((+mark.dataset.low + 0.5) / factor), high = Math.ceil((+mark.dataset.high + 0.5) / factor) - 1;
        mark.hidden = at[plane.axis] < low || at[plane.axis] > Math.max(low, high);
      }
      plane.slider.value = at[plane.axis];
      plane.place.value = place(plane.axis);
      plane.slider.setAttribute("aria-valuetext", plane.place.value);
    }
    viewer.querySelector(".reading").textContent = [0, 1, 2].map(place).join(", ") + ": " + data.columns.map(reading).join(", ");
  }

  function place(axis) {
    const row = data.affine[axis], mm = row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3];
    return `${["RL", "AP", "SI"][axis][mm >= 0 ? 0 : 1]} ${Math.abs(mm).toFixed(0)} mm`;
  }

  // The value at the position, to the precision of the levels.
  function reading(column, n) {
    const level = volumes[n][at[0] + nx * (at[1] + ny * at[2])];
    let value;
    if (column.range) value = column.range[0] + (level / 255) * (column.range[1] - column.range[0]);
    else {
      const [hu, known] = data.hu;
      const k = Math.min(known.length - 2, known.filter(x => x <= level).length - 1);
      value = hu[k] + ((level - known[k]) / (known[k + 1] - known[k])) * (hu[k + 1] - hu[k]);
    }
    const end = level <= 3 ? "≤ " : level >= 252 ? "≥ " : "about ";  // beyond the levels there is no value
    return `${column.title} ${end}${Number(value.toPrecision(Math.abs(value) < 100 ? 2 : 3))} ${data.unit}`.trim().replace(" -", " −");
  }

  function move(axis, voxel) {
    at[axis] = Math.min(data.shape[axis] - 1, Math.max(0, Math.round(voxel)));
  }

  function point(event, plane, frame) {
    const box = frame.getBoundingClientRect();
    move(plane.across, data.shape[plane.across] * (1 - (event.clientX - box.left) / box.width) - 0.5);
    move(plane.down, data.shape[plane.down] * (1 - (event.clientY - box.top) / box.height) - 0.5);
    draw();
  }

  function listen(plane, frame) {
    frame.addEventListener("pointerdown", event => {
      if (event.button !== 0) return;
      if (event.pointerType !== "touch") frame.setPointerCapture(event.pointerId);
      point(event, plane, frame);
    });
    frame.addEventListener("pointermove", event => {
      if (frame.hasPointerCapture(event.pointerId)) point(event, plane, frame);
    });
    // The wheel changes the slice once the image was clicked, so that it still scrolls the page over other images.
    frame.addEventListener("wheel", event => {
      if (document.activeElement !== frame || event.ctrlKey) return;
      event.preventDefault();
      move(plane.axis, at[plane.axis] - Math.sign(event.deltaY));
      draw();
    }, { passive: false });
    frame.addEventListener("keydown", event => {
      const moves = {
        ArrowLeft: [plane.across, 1], ArrowRight: [plane.across, -1], ArrowUp: [plane.down, 1], ArrowDown: [plane.down, -1],
        PageUp: [plane.axis, 1], PageDown: [plane.axis, -1],
      };
      if (!moves[event.key]) return;
      event.preventDefault();
      const [axis, by] = moves[event.key];
      move(axis, at[axis] + by);
      draw();
    });
  }

  function show(slices) {
    planes.forEach((plane, n) => {
      move(plane.axis, Math.floor((plane.first + plane.step * slices[n]) / data.factor[plane.axis]));
    });
    draw();
  }

  function open() {
    const slices = planes.map(plane => +plane.slider.value);
    for (const plane of planes) {
      const [width, height] = [data.shape[plane.across], data.shape[plane.down]];
      plane.figures.forEach((figure, n) => {
        const frame = figure.querySelector(".frame"), image = frame.querySelector("img");
        const canvas = Object.assign(document.createElement("canvas"), { width, height });
        canvas.style.aspectRatio = `${width * data.spacing[plane.across]} / ${height * data.spacing[plane.down]}`;
        image.after(canvas);
        image.hidden = true;
        const add = (to, name, text = "") => {
          const part = Object.assign(document.createElement("span"), { className: name, textContent: text });
          to.append(part);
          return part;
        };
        add(frame, "cross v");
        add(frame, "cross h");
        plane.element.dataset.sides.split(" ").forEach((side, k) => add(frame, `side ${"lrtb"[k]}`, side));
        const mm = width * data.spacing[plane.across];
        const length = [1000, 500, 100, 50, 20, 10, 5, 1].find(some => some < mm / 2.4) ?? Number((mm / 4).toPrecision(1));
        add(frame, "scale-bar", `${length} mm`).style.width = `${(100 * length) / mm}%`;
        frame.tabIndex = 0;
        frame.setAttribute("role", "img");
        frame.setAttribute("aria-label", `${image.alt}; arrow keys move the position, page keys the slice`);
        listen(plane, frame);
      });
      plane.slider.max = data.shape[plane.axis] - 1;
    }
    data.columns.forEach((column, n) => {
      tool(`image ${n}`).addEventListener("input", event => {
        for (const plane of planes) {
          plane.figures[n].hidden = !event.target.checked;
          const count = plane.figures.filter(figure => !figure.hidden).length;
          plane.element.querySelector(".panels").style.setProperty("--columns", Math.max(1, count));
        }
      });
    });
    viewer.classList.add("linked");
    tools.hidden = false;
    viewer.querySelector(".reading").hidden = false;
    viewer.addEventListener("input", event => {
      const moved = planes.find(plane => plane.slider === event.target);
      if (moved) move(moved.axis, +moved.slider.value);
      draw();
    });
    tool("findings")?.addEventListener("input", event => viewer.classList.toggle("unmarked", !event.target.checked));
    tool("crosshair").addEventListener("input", event => viewer.classList.toggle("uncrossed", !event.target.checked));
    viewer.show = show;
    show(slices);
  }

  return Promise.all(data.columns.map(decode)).then(decoded => {
    volumes = decoded;
    open();
  });
}

// A viewer is opened when it comes near the visible part of the page.
for (const viewer of document.querySelectorAll(".viewer:has(script.volumes)")) {
  const watch = new IntersectionObserver(entries => {
    if (!entries.some(entry => entry.isIntersecting)) return;
    watch.disconnect();
    linkedPlanes(viewer).catch(error => {
      viewer.querySelector(".unlinked").textContent = `The linked planes did not open (${error.message}); the sliders show every n-th slice.`;
      viewer.querySelector(".unlinked").hidden = false;
    });
  }, { rootMargin: "600px" });
  watch.observe(viewer);
}
