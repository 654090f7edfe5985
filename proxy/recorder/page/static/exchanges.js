// The last exchanges: a table that can be sorted, each row of which opens its timeline.

import { svg } from "./charts.js";
import { ask, copy, query } from "./asking.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);
const { count, seconds } = words;

// [heading, is it a number, value to sort by, text]
const COLUMNS = [
  ["ended", false, (x) => x.started_at + (x.e2e_s ?? 0), null],
  ["model", false, (x) => x.model, (x) => x.model ?? "(unknown)"],
  ["app", false, (x) => x.app, (x) => x.app ?? words.UNKNOWN],
  ["how it ended", false, (x) => how(x), how],
  ["limit", true, (x) => x.forwarded_max_tokens, limit],
  ["tokens", true, (x) => x.output_tokens, (x) => (x.usage_source === "estimated" ? `≈ ${count(x.output_tokens)}` : count(x.output_tokens))],
  ["TTFT", true, (x) => x.ttft_s, (x) => seconds(x.ttft_s)],
  ["per token", true, (x) => x.tpot_s, (x) => seconds(x.tpot_s)],
  ["E2E", true, (x) => x.e2e_s, (x) => seconds(x.e2e_s)],
  ["rule", false, (x) => x.rule, (x) => x.rule ?? words.UNKNOWN],
];
let sorted = { column: 0, down: true }, listed = [], heldAt = 0, of = "";
const opened = new Map(); // id of an exchange to the row of its timeline

function how(x) {
  if (x.end !== "complete") return (x.error_type ?? x.end).replaceAll("_", " ");
  if (x.status >= 400) return `status ${x.status}`;
  return x.cut === 1 ? "cut by the limit" : x.finish ?? (x.status === null ? words.UNKNOWN : `status ${x.status}`);
}

const isOdd = (x) => x.end !== "complete" || x.status >= 400 || x.cut === 1;

function limit(x) {
  const { requested_max_tokens: asked, forwarded_max_tokens: sent } = x;
  if (asked === sent) return words.known(sent) ? count(sent) : "none";
  return `${words.known(asked) ? count(asked) : "none"} → ${words.known(sent) ? count(sent) : "none"}`;
}

export function showExchanges(exchanges, figures) {
  const filters = query({ window: "" }).toString();
  if (filters !== of) opened.clear();
  of = filters;
  if (opened.size) return; // nothing moves under a timeline that is read
  heldAt = Date.now() / 1000;
  listed = exchanges;
  $("no-exchanges").hidden = exchanges.length > 0;
  $("exchanges").hidden = !exchanges.length;
  $("no-exchanges").textContent = figures.exchanges ? "None of the last thousand is of these filters. Take a filter away." : "No exchange ended here yet. Each one that ends gets a row: facts alone, no content.";
  draw();
}

function draw() {
  heads();
  const note = opened.size ? `held as of ${words.at(heldAt)} while a timeline is open` : "facts alone; no content, no keys";
  $("last-note").textContent = listed.length ? `${count(listed.length)}, ${note}` : "";
  const [, , value] = COLUMNS[sorted.column], sign = sorted.down ? -1 : 1;
  const rows = [...listed].sort((a, b) => {
    const x = value(a) ?? null, y = value(b) ?? null;
    if (x === null || y === null) return (x === null) - (y === null); // what is unknown comes last, either way
    return x < y ? -sign : x > y ? sign : 0;
  });
  const body = $("exchanges").tBodies[0], known = new Map([...body.querySelectorAll("tr[data-id]")].map((row) => [row.dataset.id, row]));
  const focused = document.activeElement;
  const wanted = rows.flatMap((x) => {
    const row = known.get(x.id) ?? made(x);
    return opened.has(x.id) ? [row, opened.get(x.id)] : [row];
  });
  const same = wanted.length === body.rows.length && wanted.every((row, index) => body.rows[index] === row);
  if (same) return;
  body.replaceChildren(...wanted);
  if (focused && focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
}

function heads() {
  const head = $("exchanges").tHead.rows[0];
  if (!head.cells.length) {
    head.append(...COLUMNS.map(([name, isNumber], index) => {
      const cell = document.createElement("th"), button = document.createElement("button");
      cell.scope = "col";
      if (isNumber) cell.className = "n";
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", () => {
        sorted = { column: index, down: sorted.column === index ? !sorted.down : isNumber || index === 0 };
        draw();
      });
      cell.append(button);
      return cell;
    }));
  }
  [...head.cells].forEach((cell, index) => {
    if (index === sorted.column) cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

function made(x) {
  const row = document.createElement("tr");
  row.dataset.id = x.id;
  COLUMNS.forEach(([, isNumber, value, text], index) => {
    const cell = document.createElement("td");
    if (isNumber) cell.className = "n";
    if (index === 0) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "open";
      button.textContent = words.at(value(x));
      button.setAttribute("aria-expanded", "false");
      button.setAttribute("aria-label", `${words.at(value(x))}, timeline`);
      button.addEventListener("click", () => toggle(x, button));
      cell.append(button);
    } else {
      const said = text(x);
      if (index === 3 && isOdd(x)) cell.append(Object.assign(document.createElement("em"), { textContent: said }));
      else cell.textContent = said;
      if (index === 1 || index === 2 || index === 9) { cell.className = "name"; cell.title = said; }
    }
    row.append(cell);
  });
  return row;
}

async function toggle(x, button) {
  if (opened.has(x.id)) {
    opened.delete(x.id);
    button.setAttribute("aria-expanded", "false");
    draw();
    return;
  }
  const row = document.createElement("tr"), cell = document.createElement("td");
  row.className = "detail";
  cell.colSpan = COLUMNS.length;
  row.append(cell);
  opened.set(x.id, row);
  button.setAttribute("aria-expanded", "true");
  draw();
  try {
    cell.append(story(await ask(`api/exchanges/${encodeURIComponent(x.id)}`)));
  } catch (error) {
    cell.append(`No timeline: ${error.message}.`);
  }
}

// What the time between two marks was spent on, and how it is drawn.
const PHASES = [
  ["accepted", "request complete", "receiving the request", "a"],
  ["request complete", "connecting", "deciding", "a"],
  ["connecting", "connected", "connecting", "b"],
  ["connected", "sent", "sending", "a"],
  ["request complete", "sent", "deciding and sending", "a"],
  ["sent", "headers", "waiting for headers", "b"],
  ["headers", "first token", "waiting for the first token", "b"],
  ["sent", "first token", "waiting for the first token", "b"],
  ["first token", "last token", "tokens", "c"],
  ["headers", "last byte", "waiting for the body", "b"],
  ["sent", "last byte", "waiting", "b"],
  ["last token", "end", "ending", "a"],
];

function story(x) {
  const place = document.createElement("div");
  place.className = "story";
  const at = Object.fromEntries(x.marks), last = Math.max(0, ...Object.values(at));
  let until = -1;
  const phases = PHASES.filter(([from, to]) => {
    const fits = from in at && to in at && at[from] >= until && at[to] >= at[from];
    // A pair is left out where finer marks between the two are known.
    const finer = PHASES.some(([start, stop]) => start === from && stop !== to && stop in at && at[stop] < at[to] && stop !== "sent");
    if (!fits || finer || at[to] - at[from] < 1e-6) return false;
    until = at[to];
    return true;
  });
  if (last > 0) place.append(line(x, at, last, phases));
  const facts = document.createElement("ul");
  facts.className = "facts";
  for (const [from, to, name, role] of phases) {
    const item = fact(name, seconds(at[to] - at[from]));
    item.prepend(svg("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, svg("rect", { width: 10, height: 10, rx: 2, class: `phase-${role}` })));
    facts.append(item);
  }
  for (const [name, value] of [
    ["upstream", x.upstream], ["dialect", x.dialect], ["status", x.status], ["finish", x.finish], ["input tokens", known(x.input_tokens)], ["checkpoints", x.checkpoints.length ? count(x.checkpoints.length) : null],
    ["own time", x.overhead_s === null ? null : seconds(x.overhead_s)], ["client blocked", x.client_blocked_s ? seconds(x.client_blocked_s) : null], ["arm", x.arm], ["not read", x.degraded], ["ended", x.end === "complete" ? null : x.end.replaceAll("_", " ")], ["error", x.error_type === String(x.status) ? null : x.error_type],
  ]) if (value !== null && value !== undefined) facts.append(fact(name, String(value)));
  const trace = document.createElement("p"), code = document.createElement("code"), button = document.createElement("button");
  trace.className = "trace";
  code.textContent = x.trace_id;
  button.type = "button";
  button.textContent = "Copy trace id";
  button.addEventListener("click", async () => {
    try {
      await copy(x.trace_id);
      button.textContent = "Copied";
    } catch (error) {
      button.textContent = error.message;
    }
  });
  trace.append("trace ", code, " ", button, ` · exchange ${x.id}`);
  place.append(facts, trace);
  return place;
}

const known = (value) => (words.known(value) ? count(value) : null);

function fact(name, value) {
  const item = document.createElement("li"), figure = document.createElement("b");
  figure.textContent = value;
  item.append(`${name} `, figure);
  return item;
}

function line(x, at, last, phases) {
  const scale = (s) => (s / last) * 1000, said = phases.map(([from, to, name]) => `${name} ${seconds(at[to] - at[from])}`).join(", ");
  const picture = svg("svg", { viewBox: "0 0 1000 64", preserveAspectRatio: "none", role: "img", "aria-label": `Timeline of ${seconds(last)}: ${said}` });
  for (const [from, to, , role] of phases) {
    picture.append(svg("rect", { x: scale(at[from]), y: 10, width: Math.max(scale(at[to]) - scale(at[from]), 1.5), height: 22, class: `phase-${role}` }));
  }
  for (const [, s] of x.checkpoints) picture.append(svg("path", { class: "tick", d: `M${scale(s)} 10v22`, "vector-effect": "non-scaling-stroke" }));
  return axis(picture, x, at, last);
}

// Texts are not stretched with the picture, so they stand beside it.
function axis(picture, x, at, last) {
  const frame = document.createElement("div"), texts = document.createElement("div");
  frame.className = "frame";
  texts.className = "texts";
  texts.setAttribute("aria-hidden", "true");
  const room = 230 / Math.min(1080, window.innerWidth - 64);
  let free = -1;
  for (const [name, s] of [["first token", at["first token"]], ["last token", at["last token"]], ["end", last]]) {
    if (s === undefined || s / last < free + room) continue;
    const text = document.createElement("span");
    text.textContent = `${name} ${seconds(s)}`;
    text.style.left = `${(s / last) * 100}%`;
    if (s / last > 0.85) text.className = "last";
    texts.append(text);
    free = s / last;
  }
  frame.append(picture, texts);
  return frame;
}
