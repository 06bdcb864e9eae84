// Puts the parts together: theme, structure, charts, tables, viewer.
const data = JSON.parse($$("data").textContent);
const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
const real = data.structures.filter((s) => s !== data.all);
let structure = data.structures[0];

function setTheme(name) {
  root.dataset.theme = name;
  $$("theme").textContent = name === "dark" ? "Light" : "Dark";
  $$("theme").setAttribute("aria-label", `Switch to ${name === "dark" ? "light" : "dark"} colours`);
}
setTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
$$("theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));
let onScreen = ""; // paper is white
addEventListener("beforeprint", () => { onScreen = root.dataset.theme; setTheme("light"); });
addEventListener("afterprint", () => setTheme(onScreen));

function panel(container, draw) {
  const box = element("div");
  container.append(box);
  draw(box);
}

// Tables of many structures show the chosen one.
function filterTables() {
  for (const table of document.querySelectorAll("table.filtered")) {
    const column = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent === "structure");
    for (const row of table.tBodies[0].rows) row.hidden = row.cells[column].textContent !== structure;
  }
}

function drawCharts() {
  for (const id of ["cost", "curves", "boxes", "volumes"]) $$(id).replaceChildren();
  $$("tip").hidden = true;
  costChart($$("cost"), data.methods, structure);
  $$("curves-section").hidden = !data.curves.length;
  for (const curve of data.curves) panel($$("curves"), (box) => curveChart(box, curve, data.methods, structure));
  const single = structure === data.all ? real[0] : structure;
  for (const name of real.length <= 6 ? real : [single]) {
    for (const m of data.measures) panel($$("boxes"), (box) => boxChart(box, data.methods, name, m.name, m.title, m.digits));
  }
  volumeCharts($$("volumes"), data.methods, single);
}

if (data.structures.length > 1) {
  $$("structure-label").hidden = false;
  $$("structure").append(...data.structures.map((name) => element("option", { value: name }, name)));
  $$("structure").addEventListener("change", (event) => { structure = event.target.value; filterTables(); drawCharts(); });
}
document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll(".wide").forEach(tellMore);
filterTables();
let drawn = 0;
new ResizeObserver(() => { // fires at once, then whenever the width changes
  if (drawn !== $$("cost").clientWidth) { drawn = $$("cost").clientWidth; drawCharts(); }
}).observe($$("cost"));
buildViewer($$("viewer"), data);
