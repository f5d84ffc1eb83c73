// The figures of a search: drawn again when the front grows, limited by what is typed or brushed, walked by keyboard.
const form = document.getElementById("limits");
const base = `/searches/${form.dataset.study}`;
const lower = form.dataset.lower === "1";
const touch = matchMedia("(pointer: coarse)").matches;
const LIMITS = ["size", "quality", "latency"];
const AXES = { quality: "quality", speed: "latency" }; // what is up in each figure
let drawn = null, chosen = null, back = null;

const limit = (name) => { const text = form.elements[name].value; return text === "" ? null : Number(text); };
const narrow = () => innerWidth < 640;

function within(point) {
  const size = limit("size"), quality = limit("quality"), latency = limit("latency");
  return (size === null || point.size <= size * 1000) && (latency === null || point.latency <= latency)
    && (quality === null || (lower ? point.quality <= quality : point.quality >= quality));
}

// From the least to the most of what may be chosen, with the limits on it, and a margin; nothing where none is.
function spanOf(values, log) {
  const found = values.filter(Number.isFinite).map((value) => log ? Math.log10(value) : value);
  const low = Math.min(...found), high = Math.max(...found), margin = Math.max(0.07 * (high - low), log ? 0.04 : 0.002);
  return found.length ? [low - margin, high + margin] : undefined;
}

function rangesOf(name, layout) {
  if (form.elements.whole.checked) return {};
  const points = Object.values(drawn.points), some = points.filter((point) => point.feasible || point.front);
  const shown = some.length ? some : points;
  const lines = (layout.shapes ?? []).map((shape) => shape.xref === "x" ? { x: shape.x0 } : { y: shape.y0 });
  const x = [...shown.map((point) => point.size / 1000), ...lines.map((line) => line.x ?? NaN)];
  const up = AXES[name], y = shown.map((point) => point[up]);
  if (up === "quality") y.push(...lines.map((line) => line.y ?? NaN));
  return { x: spanOf(x, true), y: spanOf(y, up === "latency") };
}

// Most of what may be chosen lies within these; single ones that do not would leave all others in one colour.
function coloursOf(name) {
  const values = Object.values(drawn.points).filter((point) => point.feasible).map((point) => point[name === "speed" ? "quality" : "latency"]);
  values.sort((one, other) => one - other);
  const at = (share) => values[Math.round(share * (values.length - 1))];
  return values.length > 4 && at(0.1) < at(0.9) ? { cmin: at(0.1), cmax: at(0.9) } : {};
}

function layoutOf(name, layout) {
  const ranges = rangesOf(name, layout), ranged = (axis) => ranges[axis] ? { range: ranges[axis], autorange: false } : {};
  const found = themed(layout), line = { type: "line", line: { color: colour("--link"), width: 2 } };
  const shapes = [...(layout.shapes ?? [])], size = limit("size"), up = limit(AXES[name]);
  if (size !== null) shapes.push({ ...line, xref: "x", yref: "paper", x0: size, x1: size, y0: 0, y1: 1 });
  if (up !== null) shapes.push({ ...line, xref: "paper", yref: "y", x0: 0, x1: 1, y0: up, y1: up });
  const annotations = (layout.annotations ?? []).map((each) => each.yref === "paper" ? { ...each, xanchor: "right", xshift: -3 } : each);
  const bar = { ...layout.coloraxis.colorbar, thickness: 12, outlinewidth: 0, ...(narrow() ? { orientation: "h", y: -0.32, yanchor: "top", len: 1 } : {}) };
  return { ...found, shapes, annotations, title: undefined, margin: { l: 60, r: 10, t: 42, b: 50 }, dragmode: touch ? false : "select",
    selections: [], uirevision: `${form.elements.whole.checked}`, coloraxis: { ...found.coloraxis, ...coloursOf(name), colorbar: bar }, legend: { ...layout.legend, y: 1.02, yanchor: "bottom", x: 0 },
    xaxis: { ...found.xaxis, fixedrange: touch, ...ranged("x") }, yaxis: { ...found.yaxis, fixedrange: touch, ...ranged("y") } };
}

function dataOf(data) {
  return data.map((trace) => trace.customdata === undefined ? {
    ...trace, marker: { ...trace.marker, color: colour("--ink") }, showlegend: form.elements.whole.checked,
  } : {
    ...trace, selectedpoints: null,
    marker: { ...trace.marker, opacity: trace.customdata.map((number) => within(drawn.points[number]) ? 1 : 0.12) },
  });
}

async function draw() {
  if (!drawn) return;
  const options = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["toImage", "lasso2d", "autoScale2d"], displayModeBar: touch ? false : "hover" };
  for (const [name, figure] of Object.entries(drawn.figures)) {
    const place = document.getElementById(name), first = !place.classList.contains("drawn");
    const stood = place.contains(document.activeElement) ? document.activeElement.dataset.trial : null;
    place.classList.add("drawn");
    await Plotly.react(place, dataOf(figure.data), layoutOf(name, figure.layout), options);
    if (first) listen(place, name);
    furnish(place, stood);
  }
  tell();
}

function listen(place, name) {
  place.on("plotly_click", (event) => { const number = event.points[0].customdata; if (number !== undefined) show(number, null); });
  place.on("plotly_selected", (event) => {
    if (!event?.range) return;
    const [x, y] = [event.range.x, event.range.y], up = AXES[name];
    const least = up === "quality" && !lower;
    form.elements.size.value = round(Math.max(...x));
    form.elements[up].value = round(least ? Math.min(...y) : Math.max(...y));
    draw();
  });
  place.on("plotly_deselect", clear);
  place.on("plotly_afterplot", () => furnish(place, null));
}

const round = (value) => Number(value.toPrecision(4));

function clear() {
  form.reset();
  draw();
}

// Points of the front become buttons: one of them is reached by Tab, the others from it by arrows.
function furnish(place, stood) {
  const found = [];
  for (const trace of place.querySelectorAll(".scatterlayer .trace")) {
    const numbers = trace.__data__?.[0]?.trace?.customdata;
    if (!numbers) continue;
    for (const mark of trace.querySelectorAll(".point")) {
      const number = numbers[mark.__data__.i], point = drawn.points[number];
      mark.classList.toggle("chosen", number === chosen);
      if (!point?.front) continue;
      mark.dataset.trial = number;
      mark.setAttribute("role", "button");
      mark.setAttribute("aria-label", point.label);
      mark.setAttribute("tabindex", "-1");
      found.push(mark);
    }
  }
  found.sort((one, other) => drawn.points[one.dataset.trial].size - drawn.points[other.dataset.trial].size);
  const here = found.find((mark) => mark.dataset.trial === stood) ?? found.find((mark) => Number(mark.dataset.trial) === chosen) ?? found[0];
  here?.setAttribute("tabindex", "0");
  if (stood) here?.focus();
  place.marks = found;
}

function walk(event) {
  const marks = event.currentTarget.marks ?? [], index = marks.indexOf(event.target);
  if (index < 0) return;
  const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -marks.length, End: marks.length };
  if (event.key in steps) {
    event.preventDefault();
    const next = marks[Math.min(marks.length - 1, Math.max(0, index + steps[event.key]))];
    marks.forEach((mark) => mark.setAttribute("tabindex", mark === next ? "0" : "-1"));
    next.focus();
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    show(Number(event.target.dataset.trial), event.currentTarget.id);
  }
}

function tell() {
  const points = Object.values(drawn.points), front = points.filter((point) => point.front);
  const set = LIMITS.some((name) => limit(name) !== null);
  const left = front.filter(within).length, all = points.filter(within).length;
  const text = set ? `${left} of ${front.length} on the front remain, ${all} of ${points.length} measured trials` : "";
  const place = document.getElementById("remain");
  if (place.textContent !== text) place.textContent = text;
  for (const row of document.querySelectorAll("tr[data-trial]")) {
    const point = drawn.points[row.dataset.trial];
    row.classList.toggle("gone", Boolean(point) && !within(point));
    row.classList.toggle("chosen", Number(row.dataset.trial) === chosen);
  }
}

// Shows a trial below the front; closing it leads back to where one came from, by name, as figures are drawn anew.
async function show(number, from) {
  const place = document.getElementById("detail");
  place.setAttribute("aria-busy", "true");
  const [answer, fresh] = await load(`${base}/trials/${number}`).catch(() => [{ ok: false }, null]);
  place.removeAttribute("aria-busy");
  const part = fresh?.querySelector("[data-part]");
  if (!answer.ok || !part) return say(`trial ${number} cannot be shown: try again`);
  const close = document.createElement("button");
  close.type = "button";
  close.className = "close quiet";
  close.textContent = "Close";
  close.addEventListener("click", hide);
  part.append(close);
  place.replaceChildren(part);
  chosen = number;
  back = from;
  history.replaceState(null, "", `#trial-${number}`);
  await draw();
  part.focus();
  part.scrollIntoView({ block: "nearest" });
}

async function hide() {
  const number = chosen;
  chosen = null;
  document.getElementById("detail").replaceChildren();
  history.replaceState(null, "", location.pathname);
  await draw();
  const mark = back && document.getElementById(back).querySelector(`.point[data-trial="${number}"]`);
  (mark || document.getElementById(`trial-link-${number}`))?.focus();
}

async function grow() {
  try {
    const answer = await fetch(`${base}/figures`);
    if (!answer.ok) return;
    drawn = await answer.json();
  } catch { return; }
  form.hidden = false;
  await draw();
}

form.addEventListener("input", draw);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(draw));
for (const name of Object.keys(AXES)) document.getElementById(name).addEventListener("keydown", walk);
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-detail]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(Number(link.dataset.detail), null);
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && chosen !== null) hide(); });
document.addEventListener("renewed", grow);
dark.addEventListener("change", draw);
grow().then(() => { const found = /^#trial-(\d+)$/.exec(location.hash); if (found) show(Number(found[1]), null); });
