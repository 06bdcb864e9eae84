// The slice viewer: a strip of slices for the image and one for each mask; outlines are drawn from the masks' pixels.
// A colour is a class: the truth is solid, the prediction dashed.

function loadStrip(uri) {
  const image = new Image();
  image.src = uri;
  return image.decode().then(() => image);
}

async function loadMask(uri, plane) {
  const image = await loadStrip(uri), canvas = element("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return (k) => { // class index at (x, y) of slice k; 0 outside
    const pixels = context.getImageData(k * plane.width, 0, plane.width, plane.height).data;
    return (x, y) => (x < 0 || y < 0 || x >= plane.width || y >= plane.height ? 0 : pixels[4 * (y * plane.width + x)]);
  };
}

function outline(context, at, plane, scale, aspect, colours, dash) {
  const paths = new Map(); // by class
  const line = (value, x0, y0, x1, y1) => {
    if (!value) return;
    const path = paths.get(value) ?? paths.set(value, new Path2D()).get(value);
    path.moveTo(x0 * scale, y0 * scale * aspect);
    path.lineTo(x1 * scale, y1 * scale * aspect);
  };
  for (let y = 0; y <= plane.height; y++) {
    for (let x = 0; x <= plane.width; x++) {
      const here = at(x, y), left = at(x - 1, y), above = at(x, y - 1);
      if (here !== left) for (const value of [here, left]) line(value, x, y, x, y + 1);
      if (here !== above) for (const value of [here, above]) line(value, x, y, x + 1, y);
    }
  }
  context.setLineDash(dash);
  for (const [value, path] of paths) { context.strokeStyle = colours[(value - 1) % colours.length]; context.stroke(path); }
}

function buildViewer(box, data) {
  const { cases, note, colours, names } = data.viewer, labels = data.methods.map((m) => m.label);
  const state = { chosen: cases.length - 1, plane: 0, slice: 0, method: 0, run: 0, truth: true, prediction: true };
  const loaded = new Map(), canvas = element("canvas", { role: "img", tabindex: 0 }), picture = element("img", { alt: "" });
  const caption = element("p", { class: "caption", role: "status" });
  const load = (key, make) => loaded.get(key) ?? loaded.set(key, make()).get(key);
  const select = (name, texts, key) => element("label", {}, name, element("select", {
    "data-key": key, onchange: (event) => {
      state[key] = Number(event.target.value);
      if (["chosen", "plane"].includes(key)) start();
      if (["chosen", "method"].includes(key)) listRuns();
      draw();
    },
  }, ...texts.map((text, i) => element("option", { value: i, selected: i === state[key] }, text))));
  const runs = element("select", { "data-key": "run", onchange: () => { state.run = Number(runs.value); draw(); } });
  const dice = (run) => (run.dice === null ? "" : `, Dice ${run.dice.toFixed(3)}`);

  function listRuns() { // the worst first
    const shown = cases[state.chosen].runs[state.method];
    runs.replaceChildren(...shown.map((run, i) => element("option", { value: i }, run.name + dice(run))));
    state.run = 0;
  }

  const toggle = (key, text) => element("label", {}, element("input", {
    type: "checkbox", id: `show-${key}`, checked: true, onchange: (event) => { state[key] = event.target.checked; draw(); },
  }), element("span", { class: `key ${key}` }), text);
  const slider = element("input", { type: "range", min: 0, "aria-label": "slice", oninput: () => { state.slice = Number(slider.value); draw(); } });
  const whole = Boolean(cases[0]?.planes.length);

  function start() {
    const plane = cases[state.chosen].planes[state.plane];
    if (!plane) return;
    slider.max = plane.slices.length - 1;
    slider.value = state.slice = plane.start;
  }

  async function draw() {
    const shown = cases[state.chosen], plane = shown.planes[state.plane], run = shown.runs[state.method][state.run];
    const who = `${shown.word} case ${shown.id}: ${labels[state.method]}, ${run.name}${dice(run)}`;
    if (!plane) {
      picture.hidden = !shown.overlays[run.at];
      picture.src = shown.overlays[run.at] || "data:,";
      picture.alt = who;
      caption.textContent = picture.hidden ? `${who}. This run kept no picture.` : who;
      return;
    }
    const name = `${state.chosen}/${state.plane}/`;
    const [image, truth, prediction] = await Promise.all([
      load(name, () => loadStrip(plane.image)), load(`${name}truth`, () => loadMask(plane.truth, plane)),
      load(name + run.at, () => loadMask(plane.predictions[run.at], plane)),
    ]);
    const room = Math.min(box.clientWidth, 560), density = Math.min(3, devicePixelRatio || 1);
    const tall = Math.min(room / plane.width, 560 / (plane.height * plane.aspect));
    canvas.style.width = `${plane.width * tall}px`;
    canvas.width = Math.round(plane.width * tall * density);
    canvas.height = Math.round(plane.height * plane.aspect * tall * density);
    const context = canvas.getContext("2d"), scale = canvas.width / plane.width;
    context.drawImage(image, state.slice * plane.width, 0, plane.width, plane.height, 0, 0, canvas.width, canvas.height);
    context.lineWidth = 1.75 * density;
    if (state.truth) outline(context, truth(state.slice), plane, scale, plane.aspect, colours, []);
    if (state.prediction) outline(context, prediction(state.slice), plane, scale, plane.aspect, colours, [5 * density, 2 * density]);
    const place = `${plane.name} slice ${plane.slices[state.slice]}`;
    canvas.setAttribute("aria-label", `${who}, ${place}`);
    caption.textContent = `${who}; ${place}`;
  }

  if (note) box.append(element("p", { class: "banner" }, note));
  if (!cases.length) return box.append("No case has a Dice.");
  const first = element("div", { class: "row" }, select("Case", cases.map((c) => `${c.word}: ${c.id}`), "chosen"));
  if (whole) first.append(select("Plane", cases[0].planes.map((p) => p.name), "plane"));
  first.append(select("Method", labels, "method"), element("label", {}, "Run", runs));
  box.append(first);
  if (whole) {
    box.append(element("div", { class: "row" }, toggle("truth", "truth"), toggle("prediction", "prediction"), element("span", {}, "slice"), slider));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      slider.value = Number(slider.value) + step;
      state.slice = Number(slider.value);
      draw();
    });
  }
  box.append(whole ? canvas : picture, caption);
  if (Object.keys(names).length > 1) {
    box.append(element("p", { class: "hint row" }, ...Object.entries(names).map(([name, colour]) =>
      element("span", {}, element("span", { class: "swatch", style: `background:${colour}` }), ` ${name}`))));
  }
  listRuns();
  start();
  draw();
  new ResizeObserver(draw).observe(box);
}
