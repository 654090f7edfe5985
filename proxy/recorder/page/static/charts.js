// Small charts as SVG. A chart is data: an axis each way and layers of lines, bars and dots. Colours are roles of the page (ink, quiet,
// accent). Every chart says its figures in words too: as its label, and for the place where the pointer or an arrow key is.

const NS = "http://www.w3.org/2000/svg";
const MARGIN = { left: 46, right: 12, top: 12, bottom: 24 };
const drawn = new WeakMap();
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const state = drawn.get(target);
    if (state && (target.clientWidth !== state.width || target.clientHeight !== state.height)) paint(target, state);
  }
});

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// The marks between nought and most: some round numbers, at least so far apart.
export function ticks(most, { wanted = 4, least = 0 } = {}) {
  if (!(most > 0)) return [0];
  const rough = Math.max(most / wanted, least);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let mark = 0; mark <= most * 1.0001; mark += step) found.push(Number(mark.toPrecision(12)));
  return found;
}

const scale = (axis, from, to) => {
  const place = axis.log ? Math.log2 : (value) => value;
  const low = place(axis.min), high = place(axis.max);
  return (value) => from + ((place(value) - low) / (high - low || 1)) * (to - from);
};

// spec: title, note, keys [{name, role, kind}], x {min, max, marks [[value, text]], unit, log}, y {max, format, least}, layers, label,
// tell {at [x], text (place) => string}, none: what to say when there is nothing to draw.
export function chart(figure, spec) {
  let plot = figure.querySelector(".plot");
  if (!plot) {
    const caption = document.createElement("figcaption");
    caption.append(document.createElement("b"), document.createElement("span"));
    const row = document.createElement("div"), keys = document.createElement("ul"), readout = document.createElement("p");
    row.className = "row";
    keys.className = "keys";
    readout.className = "readout";
    row.append(keys, readout);
    plot = document.createElement("div");
    plot.className = "plot";
    figure.prepend(caption, row, plot);
    resized.observe(plot);
  }
  figure.querySelector("b").textContent = spec.title;
  figure.querySelector("figcaption span").textContent = spec.none ? "" : spec.note;
  figure.querySelector(".keys").replaceChildren(...(spec.none ? [] : spec.keys || []).map(key));
  const state = drawn.get(plot) || { place: null, readout: figure.querySelector(".readout") };
  state.spec = spec;
  drawn.set(plot, state);
  paint(plot, state);
}

function key({ name, role, kind }) {
  const item = document.createElement("li");
  const swatch = svg("svg", { viewBox: "0 0 16 10", "aria-hidden": "true" });
  if (kind === "bar") swatch.append(svg("rect", { x: 3, y: 0, width: 9, height: 10, rx: 1.5, class: `bar-${role}` }));
  else if (kind === "dot") swatch.append(svg("path", { d: "M8 5h.01", class: `dots ${role}`, "stroke-width": 7 }));
  else swatch.append(svg("path", { d: "M1 5H15", class: `line ${role}${kind === "dotted" ? " dotted" : ""}` }));
  item.append(swatch, name);
  return item;
}

function paint(plot, state) {
  const { spec } = state;
  state.width = plot.clientWidth;
  state.height = plot.clientHeight;
  if (spec.none) {
    const none = document.createElement("p");
    none.className = "none";
    none.textContent = spec.none;
    plot.replaceChildren(none);
    state.readout.textContent = "";
    return;
  }
  const { width, height } = state;
  if (!width) return;
  const x = scale(spec.x, MARGIN.left, width - MARGIN.right);
  const y = scale({ min: 0, max: spec.y.max }, height - MARGIN.bottom, MARGIN.top);
  const canvas = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${spec.title}. ${spec.label || spec.note}` });
  if (spec.tell) canvas.setAttribute("tabindex", "0");
  for (const mark of ticks(spec.y.max, { least: spec.y.least })) {
    canvas.append(svg("path", { class: "grid", d: `M${MARGIN.left} ${y(mark)}H${width - MARGIN.right}` }));
    canvas.append(svg("text", { x: MARGIN.left - 7, y: y(mark) + 4, "text-anchor": "end" }, spec.y.format(mark)));
  }
  for (const [text, at, anchor] of fitting(spec.x, x, width)) canvas.append(svg("text", { x: at, y: height - 6, "text-anchor": anchor }, text));
  for (const layer of spec.layers) canvas.append(...LAYERS[layer.type](layer, x, y));
  state.cursor = svg("path", { class: "cursor", d: "" });
  canvas.append(state.cursor);
  if (spec.tell) listen(canvas, plot, state, x);
  const focused = plot.contains(document.activeElement);
  plot.replaceChildren(canvas);
  if (focused) canvas.focus({ preventScroll: true });
  point(state, x);
}

// Marks that have room for their texts: [text, place, anchor]. The last one bears the unit, and has its room first; it ends in the frame.
function fitting({ marks, unit }, x, width) {
  if (!marks.length) return [];
  const found = [], wide = (text) => text.length * 6.6 + 12;
  const [value, plain] = marks.at(-1), text = unit ? `${plain} ${unit}` : plain;
  const last = unit || x(value) + wide(text) / 2 > width + 6 ? [text, Math.min(x(value) + MARGIN.right, width), "end"] : [text, x(value), "middle"];
  const until = last[1] - (last[2] === "end" ? wide(text) : wide(text) / 2);
  let free = -Infinity;
  for (const [at, said] of marks.slice(0, -1)) {
    const half = wide(said) / 2;
    if (x(at) - half < free || x(at) + half > until) continue;
    found.push([said, x(at), "middle"]);
    free = x(at) + half;
  }
  return [...found, last];
}

const LAYERS = {
  line({ points, role, dotted }, x, y) {
    let d = "", pen = "M";
    const alone = [];
    points.forEach(([at, value], index) => {
      if (value === null) { pen = "M"; return; }
      if (pen === "M" && (index + 1 === points.length || points[index + 1][1] === null)) { alone.push([at, value]); return; }
      d += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
    });
    return [svg("path", { class: `line ${role}${dotted ? " dotted" : ""}`, d }), ...LAYERS.dots({ points: alone, role }, x, y)];
  },
  bars({ from, to, values, below, role }, x, y) {
    let d = "";
    values.forEach((value, index) => {
      if (!value) return;
      const left = x(from[index]) + 0.6, right = Math.max(x(to[index]) - 0.6, left + 1), under = below ? below[index] : 0;
      d += `M${left.toFixed(1)} ${y(under).toFixed(1)}V${Math.min(y(under + value), y(under) - 1.5).toFixed(1)}H${right.toFixed(1)}V${y(under).toFixed(1)}Z`;
    });
    return [svg("path", { class: `bar-${role}`, d })];
  },
  steps({ from, to, values, role }, x, y) {
    let d = "", pen = "M";
    values.forEach((value, index) => {
      d += `${pen}${x(from[index]).toFixed(1)} ${y(value).toFixed(1)}H${x(to[index]).toFixed(1)}`;
      pen = "L";
    });
    return [svg("path", { class: `line ${role}`, d })];
  },
  dots({ points, role }, x, y) {
    return [svg("path", { class: `dots ${role}`, d: points.map(([at, value]) => `M${x(at).toFixed(1)} ${y(value).toFixed(1)}h.01`).join("") })];
  },
  mark({ at, text }, x, y) {
    const place = x(at), bottom = y(0), room = place < 120;
    return [
      svg("path", { class: "mark", d: `M${place} ${MARGIN.top - 4}V${bottom}` }),
      svg("text", { class: "mark-text", x: place + (room ? 6 : -6), y: MARGIN.top + 6, "text-anchor": room ? "start" : "end" }, text),
    ];
  },
};

function listen(canvas, plot, state, x) {
  const { at } = state.spec.tell;
  canvas.addEventListener("pointermove", (event) => {
    const here = event.clientX - canvas.getBoundingClientRect().left;
    let best = 0;
    at.forEach((value, index) => { if (Math.abs(x(value) - here) < Math.abs(x(at[best]) - here)) best = index; });
    state.place = best;
    point(state, x);
  });
  canvas.addEventListener("pointerleave", () => { state.place = null; point(state, x); });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    state.readout.setAttribute("aria-live", "polite");
    state.place = Math.min(Math.max((state.place ?? (move > 0 ? -1 : at.length)) + move, 0), at.length - 1);
    point(state, x);
  });
  canvas.addEventListener("blur", () => { state.place = null; point(state, x); });
}

function point(state, x) {
  const { tell } = state.spec;
  if (!tell || state.place === null || state.place >= tell.at.length) {
    state.readout.textContent = "";
    state.cursor.setAttribute("d", "");
    return;
  }
  state.readout.textContent = tell.text(state.place);
  state.cursor.setAttribute("d", `M${x(tell.at[state.place])} ${MARGIN.top}V${state.height - MARGIN.bottom}`);
}
