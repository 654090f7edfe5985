// The live page: asks the recorder every two seconds while it is seen, and hands what it hears to the parts that show it.

import { FILTERS, Refused, WINDOWS, ask, asked, query, remember, windowS } from "./asking.js";
import { showCaps, showFast, showHealth, showLengths, showRules, chooseCap } from "./sections.js";
import { showExchanges } from "./exchanges.js";
import * as words from "./words.js";

const PERIOD_MS = 2000, LATE_MS = 1500;
const $ = (id) => document.getElementById(id);

let timer = 0, round = 0, startedAt = null, heardAt = null, restartUntil = 0;

// -- the round ----------------------------------------------------------------------------------------------------------

async function refresh() {
  clearTimeout(timer);
  const mine = ++round;
  if (document.hidden) {
    pulse("", "paused while hidden");
    return;
  }
  const late = setTimeout(() => { if (mine === round) pulse("late", "waiting for the recorder"); }, LATE_MS);
  try {
    const q = query();
    const [state, figures, caps, points, last] = await Promise.all(
      ["state", `figures?${q}`, `caps?${q}`, `points?${q}`, `exchanges?${q}`].map((path) => ask(`api/${path}`)));
    if (mine !== round) return;
    const began = performance.now();
    show(state, figures, caps, points, last.exchanges);
    performance.measure("refresh", { start: began, end: performance.now() });
  } catch (error) {
    if (mine !== round) return;
    failed(error);
  } finally {
    clearTimeout(late);
  }
  timer = setTimeout(refresh, PERIOD_MS);
}

function show(state, figures, caps, points, exchanges) {
  const now = Date.now() / 1000;
  if (startedAt !== null && startedAt !== state.started_at_s) restartUntil = now + 60;
  startedAt = state.started_at_s;
  heardAt = now;
  $("key").hidden = true;
  $("main").hidden = $("asked").hidden = false;
  $("main").className = "";
  pulse("live", "live", words.at(now));
  if (now < restartUntil) notice(`The recorder restarted at ${words.at(startedAt)}; ${words.plural(state.restored, "exchange was", "exchanges were")} read again from the ledger.`, true);
  else notice("");
  offer(figures.names);
  showHealth(state, figures);
  showFast(figures, points);
  showLengths(figures);
  showCaps(figures, caps);
  showRules(state, figures);
  showExchanges(exchanges, figures);
  $("about").textContent = `Lengthwise ${state.version}, settings ${state.settings.digest.slice(0, 12)}, recorder since ${words.date(startedAt)}, ${words.at(startedAt)}. `
    + "Times are of this browser's zone; quantiles are right to within 1%.";
}

function failed(error) {
  $("main").className = "old";
  const since = heardAt === null ? "" : ` Figures are of ${words.at(heardAt)}.`;
  if (error instanceof Refused && error.status === 401) {
    $("key").hidden = false;
    pulse("late", "wants a token");
    notice(sessionStorage.getItem("token") ? "This is not the token." : "");
  } else if (error instanceof Refused && error.status === 503) {
    pulse("late", "recorder away");
    notice(`${error.message.replace(/^./, (letter) => letter.toUpperCase())}; requests pass meanwhile.${since} Trying again every two seconds.`);
  } else if (error instanceof Refused) {
    pulse("late", `refused, ${error.status}`);
    notice(`The recorder refused: ${error.message}.${since}`);
  } else if (error instanceof TypeError) {
    pulse("late", "no answer");
    notice(`Nobody answers at ${location.host}.${since} Is lengthwise serve running? A demo ends by itself. Trying again every two seconds.`);
  } else {
    pulse("late", "cannot be shown");
    notice(`An answer could not be shown: ${error.message}.${since}`);
    console.error(error);
  }
}

// What changes with every answer is not for a reader that says what changes.
function pulse(kind, text, heard = "") {
  const said = $("pulse").firstElementChild;
  $("pulse").className = kind;
  if (said.textContent !== text) said.textContent = text;
  $("heard").textContent = heard;
}

function notice(text, quiet = false) {
  const place = $("notice");
  if (place.textContent !== text) place.textContent = text;
  place.className = quiet ? "quiet" : "";
  place.hidden = !text;
}

// -- what can be chosen -------------------------------------------------------------------------------------------------

function offer(names) {
  for (const [name, listed] of [["model", names.models], ["app", names.apps], ["upstream", names.upstreams]]) {
    const select = $(name), chosen = asked.get(name);
    const values = chosen === null || listed.includes(chosen) ? listed : [...listed, chosen].sort();
    const wanted = JSON.stringify(values);
    if (select.dataset.values === wanted || select === document.activeElement) continue;
    select.dataset.values = wanted;
    // The value of "all" cannot be a name's: those have a sign in front.
    select.replaceChildren(new Option(`all ${name}s`, "*"), ...values.map((value) => new Option(value || "(unknown)", `=${value}`)));
    select.value = chosen === null ? "*" : `=${chosen}`;
  }
}

function chosen() {
  remember();
  refresh();
}

$("windows").append(...WINDOWS.map(([length, text]) => {
  const label = document.createElement("label"), input = document.createElement("input"), span = document.createElement("span");
  Object.assign(input, { type: "radio", name: "window", value: length, checked: length === windowS() });
  span.textContent = text;
  input.setAttribute("aria-label", words.span(length));
  label.append(input, span);
  return label;
}));
$("windows").addEventListener("change", (event) => { asked.set("window", event.target.value); chosen(); });
for (const name of FILTERS) {
  $(name).addEventListener("change", ({ target }) => {
    if (target.value === "*") asked.delete(name);
    else asked.set(name, name === "stream" ? target.value : target.value.slice(1));
    chosen();
  });
}
if (asked.has("stream")) $("stream").value = asked.get("stream");
$("asked").addEventListener("submit", (event) => event.preventDefault());
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  refresh();
});
document.addEventListener("visibilitychange", refresh);
chooseCap();
refresh();
