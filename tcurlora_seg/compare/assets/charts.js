// Four charts as SVG. Each takes its container, draws at its width, and is drawn again when that changes.
const SHAPES = ["circle", "square", "triangle", "diamond", "cross"];
const colour = (i) => `var(--c${i % 7})`;

function drawMark(parent, i, x, y, size, text, solid = true) {
  const s = size, path = {
    circle: `M${-s},0A${s},${s} 0 1 1 ${s},0A${s},${s} 0 1 1 ${-s},0Z`,
    square: `M${-s * .9},${-s * .9}H${s * .9}V${s * .9}H${-s * .9}Z`,
    triangle: `M0,${-s * 1.15}L${s * 1.1},${s * .85}H${-s * 1.1}Z`,
    diamond: `M0,${-s * 1.3}L${s * 1.3},0L0,${s * 1.3}L${-s * 1.3},0Z`,
    cross: `M${-s * 1.2},${-s * .45}h${s * .75}v${-s * .75}h${s * .9}v${s * .75}h${s * .75}v${s * .9}h${-s * .75}v${s * .75}h${-s * .9}v${-s * .75}h${-s * .75}Z`,
  }[SHAPES[i % 5]];
  const attributes = { class: "mark", d: path, transform: `translate(${x},${y})`, fill: colour(i), role: "img" };
  const mark = shape(parent, "path", { ...attributes, "fill-opacity": solid ? 1 : .75, tabindex: solid ? 0 : -1 });
  tell(mark, text);
}

const compact = (n) => Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(n);
const known = (values) => values.filter((v) => v !== null);

function extent(values, pad = .06) {
  const low = Math.min(...values), high = Math.max(...values), room = (high - low) * pad || Math.abs(high) * pad || 1;
  return [low - room, high + room];
}

function niceTicks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * .75);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push((k * step).toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9))));
  return ticks; // as text, all with the same decimals
}

function logTicks(low, high) {
  const ticks = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high) + 1; p++)
    for (const m of [1, 2, 5]) ticks.push(m * 10 ** p);
  const inside = ticks.filter((t) => t >= low && t <= high);
  const decades = inside.filter((t) => Number.isInteger(Math.log10(t)));
  return decades.length > 2 ? decades : inside;
}

// Axes with their rules; gives back the two scales.
function frame(box, { width, height, x, y, xTicks, yTicks, xName, yName, xLog = false, xText = String, label }) {
  const svg = shape(box, "svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
  const left = 46, right = 12, top = 20, bottom = 38;
  const position = xLog ? Math.log : (v) => v;
  const [x0, x1] = x.map(position);
  const sx = (v) => left + (width - left - right) * (position(v) - x0) / (x1 - x0);
  const sy = (v) => height - bottom - (height - top - bottom) * (v - y[0]) / (y[1] - y[0]);
  for (const t of yTicks) {
    shape(svg, "line", { class: "rule", x1: left, x2: width - right, y1: sy(t), y2: sy(t) });
    shape(svg, "text", { class: "soft", x: left - 6, y: sy(t) + 4, "text-anchor": "end" }, String(t));
  }
  for (const t of xTicks) {
    shape(svg, "line", { class: "rule", x1: sx(t), x2: sx(t), y1: height - bottom, y2: height - bottom + 5 });
    shape(svg, "text", { class: "soft", x: sx(t), y: height - bottom + 17, "text-anchor": "middle" }, xText(t));
  }
  shape(svg, "text", { class: "soft", x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, xName);
  shape(svg, "text", { class: "soft", x: 2, y: 11 }, yName);
  return { svg, sx, sy, left, right: width - right };
}

function bar(svg, x, low, high, i) {
  shape(svg, "path", { d: `M${x},${low}V${high}M${x - 4},${low}h8M${x - 4},${high}h8`, stroke: colour(i), fill: "none", "stroke-width": 1.5 });
}

const describe = (m, s) => `${m.label}\nDice ${s.mean.toFixed(4)}`
  + (s.sdCases === null ? "" : `\n± ${s.sdCases.toFixed(4)} over cases`)
  + (s.sdSeeds === null ? "" : `\n± ${s.sdSeeds.toFixed(4)} over seeds`);
const reach = (s) => [s.mean - (s.sdSeeds ?? 0), s.mean + (s.sdSeeds ?? 0)];

function costChart(box, methods, structure) {
  const shown = methods.map((m, i) => ({ m, i, s: m.structures[structure] }))
    .filter(({ m, s }) => s.mean !== null && m.trainable !== null); // other programs have no such number
  if (!shown.length) return box.append("No Dice is defined here.");
  const width = box.clientWidth, height = Math.max(300, Math.min(380, width * .6));
  const counts = shown.map(({ m }) => m.trainable);
  const x = [Math.min(...counts) / 1.7, Math.max(...counts) * 1.7], y = extent(shown.flatMap(({ s }) => reach(s)), .12);
  const { svg, sx, sy } = frame(box, {
    width, height, x, y, xLog: true, xTicks: logTicks(...x), yTicks: niceTicks(...y, 5), xText: compact,
    xName: "trainable parameters", yName: "Dice", label: "Dice against trainable parameters",
  });
  const taken = [], named = shown.length <= 6; // more names than that would cover the marks
  for (const { m, i, s } of [...shown].sort((a, b) => b.s.mean - a.s.mean)) {
    const [px, py] = [sx(m.trainable), sy(s.mean)];
    if (s.sdSeeds !== null) bar(svg, px, ...reach(s).map(sy), i);
    const text = `${describe(m, s)}\n${m.trainable.toLocaleString("en")} trainable`;
    drawMark(svg, i, px, py, 6, text);
    if (!named) continue;
    const length = m.label.length * 6.6 + 14, from = px + length + 14 > width ? px - length - 12 : px + 12;
    const free = (ty) => ty > 20 && ty < height - 40
      && !taken.some((t) => Math.abs(t.y - ty) < 14 && t.from < from + length && from < t.to);
    const offset = Array.from({ length: 60 }, (_, k) => (k % 2 ? -1 : 1) * Math.ceil(k / 2) * 4).find((d) => free(py + d)) ?? 0;
    taken.push({ y: py + offset, from, to: from + length });
    drawMark(svg, i, from + 4, py + offset, 4, text, false); // beside its name, where marks hide each other
    shape(svg, "text", { x: from + 13, y: py + offset + 4 }, m.label);
  }
  if (!named) legend(box, shown.map(({ m, i }) => [i, m.label]));
}

function legend(box, entries) {
  const row = element("p", { class: "hint row" });
  for (const [i, label] of entries) {
    const key = element("span"), icon = shape(key, "svg", { class: "icon", viewBox: "0 0 16 16" });
    drawMark(icon, i, 8, 8, 5, label, false);
    key.append(` ${label}`);
    row.append(key);
  }
  box.append(row);
}

function curveChart(box, curve, methods, structure) {
  const points = curve.lines.flatMap((l) => l.points), shown = points.map((p) => methods[p.method].structures[structure]);
  if (shown.some((s) => s.mean === null)) return box.append("No Dice is defined here.");
  const width = box.clientWidth, height = 320, values = [...new Set(points.map((p) => p.x))].sort((a, b) => a - b);
  const y = extent(shown.flatMap(reach), .12);
  const { svg, sx, sy } = frame(box, {
    width, height, x: [values[0] / 1.2, values.at(-1) * 1.2], y, xLog: true, xTicks: values, yTicks: niceTicks(...y, 5),
    xName: `${curve.name} (log scale)`, yName: "Dice", label: `Dice against ${curve.name}`,
  });
  curve.lines.forEach((line, i) => {
    const at = line.points.map((p) => ({ x: sx(p.x), s: methods[p.method].structures[structure], m: methods[p.method] }));
    const d = at.map((p, k) => `${k ? "L" : "M"}${p.x},${sy(p.s.mean)}`).join("");
    shape(svg, "path", { d, fill: "none", stroke: colour(i), "stroke-width": 2 });
    for (const p of at) {
      if (p.s.sdSeeds !== null) bar(svg, p.x, ...reach(p.s).map(sy), i);
      drawMark(svg, i, p.x, sy(p.s.mean), 5, describe(p.m, p.s));
    }
  });
  legend(box, curve.lines.map((line, i) => [i, line.label]));
}

function quantile(sorted, q) {
  const at = (sorted.length - 1) * q, low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

function boxChart(box, methods, structure, measure, name, digits) {
  const all = methods.flatMap((m) => known(m.structures[structure][measure]));
  box.append(element("h3", {}, `${structure}: ${name}`));
  if (!all.length) return box.append("Not defined in any case.");
  const width = box.clientWidth, row = 46, height = methods.length * row + 40, x = extent(all), right = width - 10;
  const sx = (v) => 8 + (right - 8) * (v - x[0]) / (x[1] - x[0]);
  const svg = shape(box, "svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${name} of ${structure} by method` });
  for (const t of niceTicks(...x, width / 80)) {
    shape(svg, "line", { class: "rule", x1: sx(t), x2: sx(t), y1: 0, y2: height - 36 });
    shape(svg, "text", { class: "soft", x: sx(t), y: height - 21, "text-anchor": "middle" }, String(t));
  }
  shape(svg, "text", { class: "soft", x: (8 + right) / 2, y: height - 4, "text-anchor": "middle" }, name);
  methods.forEach((m, i) => {
    const values = m.structures[structure][measure], sorted = known(values).sort((a, b) => a - b), y = i * row + 30;
    shape(svg, "text", { x: 8, y: y - 15 }, m.label);
    if (!sorted.length) return;
    const [low, q1, median, q3, high] = [0, .25, .5, .75, 1].map((q) => sx(quantile(sorted, q)));
    shape(svg, "path", { d: `M${low},${y}H${q1}M${q3},${y}H${high}M${low},${y - 4}v8M${high},${y - 4}v8`, stroke: colour(i), "stroke-width": 1.5 });
    shape(svg, "rect", { x: q1, y: y - 9, width: Math.max(1, q3 - q1), height: 18, rx: 2, fill: colour(i), "fill-opacity": .18, stroke: colour(i), "stroke-width": 1.5 });
    shape(svg, "line", { x1: median, x2: median, y1: y - 9, y2: y + 9, stroke: colour(i), "stroke-width": 3 });
    values.forEach((v, k) => v !== null && drawMark(svg, i, sx(v), y + (k % 3 - 1) * 3, 3.5, `${m.cases[k]}, ${m.label}\n${name} ${v.toFixed(digits)}`, false));
  });
}

function volumeCharts(container, methods, structure) {
  const series = methods.map((m) => {
    const s = m.structures[structure];
    return s.volume_ml.map((v, k) => ({ case: m.cases[k], mean: (v + s.reference_ml[k]) / 2, difference: v - s.reference_ml[k] }));
  });
  const limits = series.map((points) => {
    const n = points.length, bias = points.reduce((sum, p) => sum + p.difference, 0) / n;
    const sd = n > 1 ? Math.sqrt(points.reduce((sum, p) => sum + (p.difference - bias) ** 2, 0) / (n - 1)) : 0;
    return [bias - 1.96 * sd, bias, bias + 1.96 * sd];
  });
  const x = extent(series.flat().map((p) => p.mean)), y = extent([0, ...limits.flat(), ...series.flat().map((p) => p.difference)]);
  methods.forEach((m, i) => {
    const bias = element("span", {}, `bias ${limits[i][1].toFixed(2)}`);
    const box = element("div", {}, element("h3", {}, `${structure}: ${m.label} `, bias));
    container.append(box);
    const { svg, sx, sy, left, right } = frame(box, {
      width: box.clientWidth, height: 230, x, y, xTicks: niceTicks(...x, 4), yTicks: niceTicks(...y, 4),
      xName: "mean of both, ml", yName: "predicted − reference, ml", label: `Bland-Altman plot of ${structure} by ${m.label}`,
    });
    shape(svg, "line", { class: "zero", x1: left, x2: right, y1: sy(0), y2: sy(0), "stroke-width": .75 });
    limits[i].forEach((v, k) => shape(svg, "line", { x1: left, x2: right, y1: sy(v), y2: sy(v), stroke: colour(i), "stroke-width": 1.5, "stroke-dasharray": k === 1 ? "none" : "5 4" }));
    for (const p of series[i]) drawMark(svg, i, sx(p.mean), sy(p.difference), 4, `${p.case}\nmean ${p.mean.toFixed(2)} ml\ndifference ${p.difference.toFixed(2)} ml`, false);
  });
}
