// The slice viewer: a strip of slices for the image and one for each mask; outlines are drawn from the masks' pixels.
const TRUTH = "#56b4e9", PREDICTION = "#ff9d1e";

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

function outline(context, at, plane, scale, aspect, stroke, dash) {
  context.beginPath();
  for (let y = 0; y <= plane.height; y++) {
    for (let x = 0; x <= plane.width; x++) {
      if (at(x, y) !== at(x - 1, y)) { context.moveTo(x * scale, y * scale * aspect); context.lineTo(x * scale, (y + 1) * scale * aspect); }
      if (at(x, y) !== at(x, y - 1)) { context.moveTo(x * scale, y * scale * aspect); context.lineTo((x + 1) * scale, y * scale * aspect); }
    }
  }
  context.strokeStyle = stroke;
  context.setLineDash(dash);
  context.stroke();
}

function buildViewer(box, data) {
  const { cases, note } = data.viewer, labels = data.methods.map((m) => m.label);
  const state = { chosen: cases.length - 1, plane: 0, slice: 0, method: 0, truth: true, prediction: true };
  const loaded = new Map(), canvas = element("canvas", { role: "img", tabindex: 0 }), picture = element("img", { alt: "" });
  const caption = element("p", { class: "caption", role: "status" });
  const load = (key, make) => loaded.get(key) ?? loaded.set(key, make()).get(key);
  const select = (name, texts, key) => element("label", {}, name, element("select", {
    "data-key": key, onchange: (event) => { state[key] = Number(event.target.value); if (key !== "method") start(); draw(); },
  }, ...texts.map((text, i) => element("option", { value: i, selected: i === state[key] }, text))));
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
    const shown = cases[state.chosen], plane = shown.planes[state.plane], dice = shown.dice[state.method];
    const score = dice === null ? "" : `, mean Dice ${dice.toFixed(3)}`;
    const who = `${shown.word} case ${shown.id}: ${labels[state.method]}${score}; prediction of seed ${shown.seeds[state.method]}`;
    if (!plane) {
      picture.hidden = !shown.overlays[state.method];
      picture.src = shown.overlays[state.method] || "data:,";
      picture.alt = who;
      caption.textContent = picture.hidden ? `${who}. This run kept no picture.` : who;
      return;
    }
    const name = `${state.chosen}/${state.plane}/`;
    const [image, truth, prediction] = await Promise.all([
      load(name, () => loadStrip(plane.image)), load(`${name}truth`, () => loadMask(plane.truth, plane)),
      load(name + state.method, () => loadMask(plane.predictions[state.method], plane)),
    ]);
    const room = Math.min(box.clientWidth, 560), density = Math.min(3, devicePixelRatio || 1);
    const tall = Math.min(room / plane.width, 560 / (plane.height * plane.aspect));
    canvas.style.width = `${plane.width * tall}px`;
    canvas.width = Math.round(plane.width * tall * density);
    canvas.height = Math.round(plane.height * plane.aspect * tall * density);
    const context = canvas.getContext("2d"), scale = canvas.width / plane.width;
    context.drawImage(image, state.slice * plane.width, 0, plane.width, plane.height, 0, 0, canvas.width, canvas.height);
    context.lineWidth = 1.75 * density;
    if (state.truth) outline(context, truth(state.slice), plane, scale, plane.aspect, TRUTH, []);
    if (state.prediction) outline(context, prediction(state.slice), plane, scale, plane.aspect, PREDICTION, [5 * density, 2 * density]);
    const place = `${plane.name} slice ${plane.slices[state.slice]}`;
    canvas.setAttribute("aria-label", `${who}, ${place}`);
    caption.textContent = `${who}; ${place}`;
  }

  if (note) box.append(element("p", { class: "banner" }, note));
  if (!cases.length) return box.append("No case has a Dice.");
  const first = element("div", { class: "row" }, select("Case", cases.map((c) => `${c.word}: ${c.id}`), "chosen"));
  if (whole) first.append(select("Plane", cases[0].planes.map((p) => p.name), "plane"));
  first.append(select("Method", labels, "method"));
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
  start();
  draw();
  new ResizeObserver(draw).observe(box);
}
