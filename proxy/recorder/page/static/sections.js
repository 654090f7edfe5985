// The four questions: an answer in a sentence, figures, charts.

import { chart, svg, ticks } from "./charts.js";
import { ask, asked, copy, filtered, query, remember } from "./asking.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);
const { count, percent, plural, seconds, short } = words;

function el(name, text, className) {
  const element = document.createElement(name);
  if (text !== undefined) element.append(...[text].flat());
  if (className) element.className = className;
  return element;
}

const marked = (text) => el("em", text);

// A list of figures: [name, value, note, is it something to look at].
function stats(list, figures) {
  const said = JSON.stringify(figures);
  if (list.dataset.said === said) return; // somebody may be marking a figure to copy it
  list.dataset.said = said;
  list.replaceChildren(...figures.map(([name, value, note, look]) => {
    const item = el("div"), figure = el("dd", look ? marked(value) : value);
    if (note) figure.append(el("small", note));
    item.append(el("dt", name), figure);
    return item;
  }));
}

function say(place, ...parts) {
  const text = parts.map((part) => (typeof part === "string" ? part : part.textContent)).join("");
  if (place.textContent === text) return;
  place.replaceChildren(...parts);
}

// A round number at or above the largest, where the axis ends.
function end(values, least = 0) {
  const most = Math.max(0, ...values.filter(words.known));
  const marks = ticks(most || 1, { least });
  return marks.at(-1) >= most ? marks.at(-1) : marks.at(-1) + marks[1];
}

const countAxis = (values) => ({ max: end(values, 1), format: short, least: 1 });

const starts = ({ since_s, step_s, steps }) => steps.exchanges.map((_, index) => since_s + index * step_s);

function timeAxis(figures) {
  const { since_s, window_s } = figures, write = window_s <= 300 ? words.at : words.minute, marks = [];
  const spacing = { 60: 15, 300: 60, 900: 180, 3600: 600, 21600: 3600, 86400: 14400 }[window_s];
  // Whole hours of the reader's zone, not of the unix epoch.
  const shift = new Date(since_s * 1000).getTimezoneOffset() * 60;
  for (let at = Math.ceil((since_s - shift) / spacing) * spacing + shift; at <= since_s + window_s; at += spacing) marks.push([at, write(at)]);
  return { min: since_s, max: since_s + window_s, marks };
}

// -- healthy? -----------------------------------------------------------------------------------------------------------

export function showHealth(state, figures) {
  const { exchanges, faults, ends, window_s } = figures;
  const wrong = faults.client + faults.proxy + faults.upstream;
  const dropped = state.drops.records, lost = state.drops.failed_records + (state.ledger ? state.ledger.failed : 0);
  const alive = state.workers.filter((worker) => worker.alive).length;
  const troubles = [];
  if (state.policy.error) troubles.push("the rules on disk are broken and the last good ones stay");
  if (state.ledger && state.ledger.error) troubles.push("the ledger takes no rows");
  if (dropped) troubles.push(`${plural(dropped, "record was", "records were")} dropped since the start`);
  const disarmed = state.policy.rules.filter((rule) => rule.armed === false).map((rule) => rule.name);
  if (disarmed.length) troubles.push(`${disarmed.length === 1 ? "rule" : "rules"} ${disarmed.join(", ")} ${disarmed.length === 1 ? "is" : "are"} disarmed`);
  if (!alive) troubles.push("no worker is connected");
  const also = troubles.length ? [" ", marked(`${troubles.join("; ").replace(/^./, (letter) => letter.toUpperCase())}.`)] : [];
  const by = ["upstream", "client", "proxy"].filter((fault) => faults[fault]).map((fault) => `${count(faults[fault])} by the ${fault}`);
  const begin = first(state.listen, !exchanges && !filtered());
  const next = filtered() ? "Choose others above, or a longer time." : begin;
  if (!exchanges) say($("healthy"), `No exchange ${filtered() ? "of these " : ""}ended in ${words.last(window_s)}. ${next}`, ...also);
  else if (!wrong) say($("healthy"), `Yes: ${plural(exchanges, "exchange", "exchanges")} in ${words.last(window_s)}, none went wrong.`, ...also);
  else say($("healthy"), marked(`${count(wrong)} of ${plural(exchanges, "exchange", "exchanges")} went wrong`), ` (${percent(wrong / exchanges)}): ${by.join(", ")}.`, ...also);
  const overhead = figures.overhead_s, left = ends.client_disconnect || 0;
  stats($("health"), [
    ["requests", `${words.rate(figures.per_s)}/s`, `${count(exchanges)} ${figures.known_since_s > figures.since_s ? `since ${words.at(figures.known_since_s)}` : `in ${words.span(window_s)}`}`],
    ["active now", count(state.active), filtered() ? "exchanges in progress, of all" : "exchanges in progress"],
    ["went wrong", percent(exchanges ? wrong / exchanges : null), `upstream ${count(faults.upstream)}, client ${count(faults.client)}, proxy ${count(faults.proxy)}`, wrong > 0],
    ["clients that left", count(left), "before the answer was whole"],
    ["own time added", seconds(overhead.p50), `median; p95 ${seconds(overhead.p95)}, n ${count(overhead.n)}`],
    ["lost", count(dropped + lost), `${plural(dropped, "record", "records")}, ${plural(lost, "ledger row", "ledger rows")}, since the start`, dropped + lost > 0],
    ["workers", `${count(alive)}`, `${state.workers.length === alive ? "all connected" : `of ${count(state.workers.length)} connected`}; settings ${state.settings.digest.slice(0, 8)}`, !alive],
    ["rules", state.policy.error ? "broken" : plural(state.policy.rules.length, "rule", "rules"),
      state.policy.error || (state.policy.loaded_at ? `digest ${state.policy.digest.slice(0, 8)}, read ${words.at(state.policy.loaded_at)}` : `digest ${state.policy.digest.slice(0, 8)}`), Boolean(state.policy.error)],
  ]);
  const at = starts(figures), { steps, step_s } = figures;
  const good = steps.exchanges.map((n, index) => n - steps.faults[index]);
  const listed = Object.entries(ends).sort(([, a], [, b]) => b - a).map(([name, n]) => `${name.replace("_", " ")} ${count(n)}`).join(" · ");
  chart($("c-rate"), {
    title: "Exchanges that ended",
    note: `Each bar is ${words.span(step_s)}.${listed && ` By end: ${listed}.`}`,
    none: exchanges ? "" : "Nothing to draw yet. This fills by itself.",
    keys: [{ name: "went well", role: "quiet", kind: "bar" }, { name: "went wrong", role: "accent", kind: "bar" }],
    x: timeAxis(figures),
    y: countAxis(steps.exchanges),
    layers: [
      { type: "bars", from: at, to: at.map((start) => start + step_s), values: good, role: "quiet" },
      { type: "bars", from: at, to: at.map((start) => start + step_s), values: steps.faults, below: good, role: "accent" },
    ],
    tell: { at: at.map((start) => start + step_s / 2), text: (i) => `${words.at(at[i])}: ${count(steps.exchanges[i])} ended in ${step_s} s, ${count(steps.faults[i])} went wrong` },
  });
}

// How to begin: shown below, or returned where the system chose the port, which is not known here.
function first(listen, wanted) {
  const place = $("first"), url = new URL(listen);
  place.hidden = !wanted || url.port === "0";
  if (url.port === "0") return "Send one: base_url is the address that lengthwise serve printed as “listening on”.";
  if (place.dataset.listen === listen) return "";
  place.dataset.listen = listen;
  if (["0.0.0.0", "[::]"].includes(url.hostname)) url.hostname = location.hostname;
  const body = '{"model": "gpt-4o-mini", "max_tokens": 256, "stream": true, "messages": [{"role": "user", "content": "Name three rivers."}]}';
  const command = `curl -N ${url.origin}/v1/chat/completions \\\n  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\\n  -d '${body}'`;
  place.querySelector("b").textContent = `${url.origin}/v1`;
  place.querySelector("pre code").textContent = command;
  copies(place.querySelector("button"), place.querySelector("span"), () => command, "copied");
  return "";
}

function copies(button, said, text, done) {
  button.addEventListener("click", async () => {
    try {
      await copy(await text());
      said.textContent = done;
    } catch (error) {
      said.textContent = error.message;
    }
  });
}

// -- fast? --------------------------------------------------------------------------------------------------------------

export function showFast(figures, points) {
  const { law, ttft_s, e2e_s } = figures;
  const took = e2e_s.n === 1 ? `The only answer took ${seconds(e2e_s.p50)}` : `Half of ${count(e2e_s.n)} answers took at most ${seconds(e2e_s.p50)}, 95% at most ${seconds(e2e_s.p95)}`;
  if (words.known(law.tpot_s)) say($("fast"), `${took}: ${seconds(law.ttft_p50_s)} to the first token, then ${seconds(law.tpot_s)} for each further one.`);
  else if (e2e_s.n) say($("fast"), `${took}. No streamed one tells the pace of tokens yet.`);
  else say($("fast"), "Not known yet: no whole answer ended in this window.");
  clouds(figures, points);
  over($("c-ttft"), figures, "ttft", "Time to first token", `n ${count(ttft_s.n)} streamed answers; p50 ${seconds(ttft_s.p50)}, p95 ${seconds(ttft_s.p95)}, p99 ${seconds(ttft_s.p99)}`);
  over($("c-tpot"), figures, "tpot", "Time per output token", `n ${count(figures.tpot_s.n)} streamed answers; p50 ${seconds(figures.tpot_s.p50)}, p95 ${seconds(figures.tpot_s.p95)}, p99 ${seconds(figures.tpot_s.p99)}`);
}

function over(figure, figures, name, title, note) {
  const { steps, step_s } = figures, p50 = steps[`${name}_p50_s`], p95 = steps[`${name}_p95_s`];
  const at = starts(figures).map((start) => start + step_s / 2);
  chart(figure, {
    title,
    note,
    none: p50.some(words.known) ? "" : "No streamed answer of two tokens or more ended in this window.",
    keys: [{ name: "p50", role: "ink" }, { name: "p95", role: "quiet" }],
    x: timeAxis(figures),
    y: secondsAxis(p95),
    layers: [
      { type: "line", points: at.map((x, i) => [x, p95[i]]), role: "quiet" },
      { type: "line", points: at.map((x, i) => [x, p50[i]]), role: "ink" },
    ],
    tell: { at, text: (i) => `${words.at(at[i] - step_s / 2)}: p50 ${seconds(p50[i])}, p95 ${seconds(p95[i])}` },
  });
}

function secondsAxis(values) {
  const max = end(values);
  return { max, format: (value) => (max < 1 ? `${Number((value * 1000).toPrecision(4))} ms` : max < 180 ? `${Number(value.toPrecision(4))} s` : `${Number((value / 60).toPrecision(3))} min`) };
}

function clouds(figures, points) {
  const { law } = figures, { output_tokens: tokens, max_tokens: limits, e2e_s: took, cut } = points;
  const several = figures.names.models.length > 1 && !asked.has("model") ? ", all models in one law" : "";
  const of = points.one_in > 1 ? `, one in ${points.one_in} drawn` : "";
  const formula = words.known(law.tpot_s) ? `E2E = ${seconds(law.ttft_p50_s)} + ${seconds(law.tpot_s)} × (tokens − 1); ` : "";
  const keys = [{ name: "ended by the model", role: "quiet", kind: "dot" }, { name: "cut by the limit", role: "accent", kind: "dot" }];
  const y = secondsAxis([quantile(took, 0.995) * 1.1]);
  const dots = (xs, x) => ["quiet", "accent"].map((role, wanted) => ({
    type: "dots", role, points: xs.flatMap((at, i) => (cut[i] === wanted && at !== null && at <= x.max && took[i] <= y.max ? [[at, took[i]]] : [])),
  }));
  const longest = end([quantile(tokens, 0.995)]) || 1, line = law.on_output_tokens, naive = law.on_max_tokens;
  const x = { min: 0, max: longest, marks: ticks(longest, { wanted: 5 }).map((mark) => [mark, short(mark)]), unit: "tokens" };
  const reach = words.known(law.tpot_s) ? Math.min(longest, (y.max - law.ttft_p50_s) / law.tpot_s + 1) : 0;
  chart($("c-tokens"), {
    title: "Time against tokens that were generated",
    note: line ? `${formula}R² ${line.r2.toFixed(3)}, n ${count(line.n)}${of}${several}` : `${plural(tokens.length, "whole answer", "whole answers")}${of}`,
    label: `E2E by output tokens${line ? `: R squared ${line.r2.toFixed(3)}` : ""}; law ${seconds(law.ttft_p50_s)} plus ${seconds(law.tpot_s)} per token after the first`,
    none: tokens.length ? "" : "No whole answer whose tokens are known ended in this window.",
    keys: reach > 1 ? [...keys, { name: "law", role: "ink thin" }] : keys,
    x,
    y,
    layers: [...(reach > 1 ? [{ type: "line", role: "ink thin", points: [[1, law.ttft_p50_s], [reach, law.ttft_p50_s + law.tpot_s * (reach - 1)]] }] : []), ...dots(tokens, x)],
  });
  const given = limits.filter(words.known), most = end([quantile(given, 0.995)]) || 1;
  const across = { min: 0, max: most, marks: ticks(most, { wanted: 5 }).map((mark) => [mark, short(mark)]), unit: "tokens" };
  const ends = naive ? inside(naive, given, across.max, y.max) : null;
  chart($("c-limits"), {
    title: "The same answers against tokens that were allowed",
    note: naive ? `R² ${naive.r2.toFixed(3)}, n ${count(naive.n)}. The slope says who chose which limit, not what a limit does.` : `${plural(given.length, "answer had", "answers had")} a limit. Less than two limits draw no line.`,
    label: `E2E by max_tokens${naive ? `: R squared ${naive.r2.toFixed(3)}` : ""}`,
    none: given.length ? "" : "No whole answer of this window had a limit.",
    keys: ends ? [...keys, { name: "naive line", role: "quiet", kind: "dotted" }] : keys,
    x: across,
    y,
    layers: [...dots(limits, across), ...(ends ? [{ type: "line", role: "quiet", dotted: true, points: ends }] : [])],
  });
}

// The part of a line that is in the frame.
function inside({ slope, intercept }, xs, most, highest) {
  const low = Math.min(...xs), high = Math.min(Math.max(...xs), most);
  const points = [low, high].map((x) => [x, intercept + slope * x]);
  return points.every(([, value]) => value >= 0 && value <= highest) ? points : null;
}

function quantile(values, share) {
  if (!values.length) return 0;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

// -- how long? ----------------------------------------------------------------------------------------------------------

export function showLengths(figures) {
  const { complete, truncations, utilization, output_tokens, lengths, reserved_unused_tokens } = figures;
  const cut = truncations.client + truncations.policy;
  if (!output_tokens.n) say($("long"), "No answer whose tokens are known ended in this window.");
  else if (!utilization.n) say($("long"), `Half of the answers have at most ${count(output_tokens.p50)} tokens, 95% at most ${count(output_tokens.p95)}. None of them had a limit.`);
  else say($("long"), `Half of the answers have at most ${count(output_tokens.p50)} tokens and use at most ${percent(utilization.p50)} of what they were allowed; `, cut ? marked(`${percent(cut / complete)} were cut`) : "none was cut", ".");
  const share = (n) => (complete ? percent(n / complete) : words.UNKNOWN);
  stats($("lengths"), [
    ["cut by the client's limit", share(truncations.client), `${count(truncations.client)} of ${count(complete)} whole answers`],
    ["cut by a policy", share(truncations.policy), `${count(truncations.policy)} of ${count(complete)} whole answers`, truncations.policy > 0],
    ["of the limit used", percent(utilization.p50), `median; p95 ${percent(utilization.p95)}, n ${count(utilization.n)}`],
    ["reserved and not used", short(reserved_unused_tokens), "tokens"],
    ["output tokens", count(output_tokens.p50), `median; p95 ${count(output_tokens.p95)}, n ${count(output_tokens.n)}`],
  ]);
  bars(lengths);
  used(utilization);
}

function bars({ up_to_tokens: to, ended, other, limits }) {
  const all = ended.map((n, i) => n + other[i]), filled = to.map((_, i) => i).filter((i) => all[i] || limits[i]);
  const first = Math.max((filled[0] ?? 0) - 1, 0), last = Math.min((filled.at(-1) ?? 1) + 1, to.length - 1);
  const part = (values) => values.slice(first, last + 1), from = part([0.9, ...to]), until = part(to);
  const marks = [];
  for (let mark = 1; mark <= until.at(-1); mark *= 2) if (mark >= from[0]) marks.push([mark, short(mark)]);
  chart($("c-lengths"), {
    title: "Lengths, and the limits that they had",
    note: "Answers by output tokens; the line is how many had which limit.",
    none: filled.length ? "" : "No answer whose tokens are known ended in this window.",
    keys: [{ name: "ended by the model", role: "quiet", kind: "bar" }, { name: "cut, or broken off", role: "accent", kind: "bar" }, { name: "limits", role: "ink" }],
    x: { min: from[0], max: until.at(-1), log: true, marks, unit: "tokens" },
    y: countAxis([...part(all), ...part(limits)]),
    layers: [
      { type: "bars", from, to: until, values: part(ended), role: "quiet" },
      { type: "bars", from, to: until, values: part(other), below: part(ended), role: "accent" },
      { type: "steps", from, to: until, values: part(limits), role: "ink" },
    ],
    tell: {
      at: until.map((high, i) => Math.sqrt(high * Math.max(from[i], 0.9))),
      text: (i) => `over ${count(from[i] < 1 ? 0 : from[i])} to ${count(until[i])} tokens: ${count(part(ended)[i])} ended by the model, ${count(part(other)[i])} cut or broken off; ${count(part(limits)[i])} limits`,
    },
  });
}

function used({ n, p50, p95, up_to: to, count: counts }) {
  const from = [0, ...to.slice(0, -1)];
  chart($("c-used"), {
    title: "How much of the limit answers use",
    note: `${plural(n, "whole answer", "whole answers")} with a limit; p50 ${percent(p50)}, p95 ${percent(p95)}`,
    none: n ? "" : "No whole answer of this window had a limit.",
    keys: [{ name: "answers", role: "quiet", kind: "bar" }],
    x: { min: 0, max: 1, marks: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, `${share * 100}%`]) },
    y: countAxis(counts),
    layers: [{ type: "bars", from, to, values: counts, role: "quiet" }],
    tell: { at: to.map((high, i) => (high + from[i]) / 2), text: (i) => `${percent(from[i])} to ${percent(to[i])} of the limit: ${plural(counts[i], "answer", "answers")}` },
  });
}

// -- a cap? -------------------------------------------------------------------------------------------------------------

const LITTLE = 0.02; // as much as a rule may cut before advise leaves it alone
let capTokens = 512, latest = null;

// The slider is the axis of the chart above it; its value is in the address, as the filters are.
export function chooseCap() {
  const slider = el("input", undefined, "slide");
  Object.assign(slider, { type: "range", id: "cap", min: 0, step: 1 });
  slider.setAttribute("aria-label", "Cap in tokens");
  slider.addEventListener("input", () => {
    capTokens = latest.caps.caps[Number(slider.value)].cap;
    asked.set("cap", capTokens);
    remember();
    $("copied-rule").textContent = "";
    showCaps(latest.figures, latest.caps);
  });
  $("c-caps").append(slider);
  copies($("copy-rule"), $("copied-rule"), () => ask(`api/rule?${query({ cap: capTokens })}`, "text"), "copied: a policies file for lengthwise check");
}

export function showCaps(figures, caps) {
  latest = { figures, caps };
  const list = caps.caps;
  // Until somebody chooses: the lowest cap that would newly have cut next to nobody, or the highest where all cut more.
  if (asked.has("cap")) capTokens = Number(asked.get("cap")) || capTokens;
  else if (caps.complete) capTokens = (list.find((each) => each.newly_cut_share <= LITTLE) ?? list.at(-1)).cap;
  const place = Math.max(list.findIndex((each) => each.cap >= capTokens), 0), chosen = list[place];
  // As far as a cap changes anything, and a little further.
  const shown = list.slice(0, Math.max(list.findLastIndex((each) => each.longer) + 4, place + 1, 12));
  capTokens = chosen.cap;
  const slider = $("cap");
  slider.max = shown.length - 1;
  slider.value = place;
  const { complete } = caps, share = (value, whole) => (whole ? value / whole : null);
  slider.setAttribute("aria-valuetext", `${count(chosen.cap)} tokens: newly cut ${percent(chosen.newly_cut_share)}, tokens saved ${count(chosen.tokens_saved)}, waiting saved ${seconds(chosen.latency_saved_s)}`);
  if (!complete) say($("cap-says"), "No whole answer in this window: there is nothing to try a cap on.");
  else if (!chosen.longer) say($("cap-says"), `A cap of ${count(chosen.cap)} tokens would have shortened no answer, and so changed next to nothing.`);
  else say($("cap-says"), `A cap of ${count(chosen.cap)} tokens would newly have cut `, marked(percent(chosen.newly_cut_share)), ` of the answers and saved ${count(chosen.tokens_saved)} tokens${words.known(chosen.latency_saved_s) ? ` and ${seconds(chosen.latency_saved_s)} of waiting` : ""}.`);
  stats($("outcome"), [
    ["newly cut", percent(chosen.newly_cut_share), `${count(chosen.newly_cut)} of ${count(complete)} whole answers`, chosen.newly_cut > 0],
    ["governed", count(chosen.governed), "answers without a limit, or with a larger one"],
    ["tokens saved", count(chosen.tokens_saved), `${percent(share(chosen.tokens_saved, caps.output_tokens))} of ${count(caps.output_tokens)}`],
    ["waiting saved", seconds(chosen.latency_saved_s), `${percent(share(chosen.latency_saved_s, caps.e2e_s))} of ${seconds(caps.e2e_s)}`],
  ]);
  const missing = figures.complete - complete;
  $("cap-note").textContent = `n ${count(complete)} whole answers${missing > 0 ? `; ${count(missing)} earlier ones ended while nobody looked and are not held` : ""}. The same figures: lengthwise report --caps ${chosen.cap}. Same requests, same load and no retries are assumed.`;
  $("copy-rule").disabled = !complete;
  const at = shown.map((_, index) => index), of = (read) => shown.map((each, index) => [index, read(each)]);
  const lines = {
    tokens: of((each) => share(each.tokens_saved, caps.output_tokens)),
    time: of((each) => (words.known(each.latency_saved_s) ? share(each.latency_saved_s, caps.e2e_s) : null)),
    cut: of((each) => each.newly_cut_share),
  };
  const max = Math.min(end(Object.values(lines).flat().map(([, value]) => value)), 1) || 1;
  chart($("c-caps"), {
    title: "What a cap would have saved and cut",
    note: `Shares of the ${count(complete)} whole answers' tokens, time and number`,
    none: complete ? "" : "Nothing to try a cap on yet.",
    keys: [{ name: "tokens saved", role: "quiet" }, { name: "waiting saved", role: "ink" }, { name: "newly cut", role: "accent" }],
    x: { min: 0, max: at.at(-1), marks: at.filter((index) => index % 2 === 0).map((index) => [index, short(shown[index].cap)]), unit: "tokens" },
    y: { max, format: (value) => `${Number((value * 100).toPrecision(3))}%` },
    layers: [
      { type: "line", role: "quiet", points: lines.tokens },
      { type: "line", role: "ink", points: lines.time },
      { type: "line", role: "accent", points: lines.cut },
      { type: "mark", at: place, text: count(chosen.cap) },
    ],
    tell: { at, text: (i) => `${count(shown[i].cap)}: newly cut ${percent(lines.cut[i][1])}, tokens saved ${percent(lines.tokens[i][1])}, waiting saved ${percent(lines.time[i][1])}` },
  });
}

export function showRules(state, figures) {
  const rules = state.policy.rules;
  $("no-rules").hidden = rules.length > 0;
  $("rules").hidden = !rules.length;
  $("rules").tBodies[0].replaceChildren(...rules.map((rule) => {
    const row = el("tr"), decided = figures.decisions.filter((each) => each.rule === rule.name);
    const listed = decided.map((each) => `${each.action}${each.mode === "shadow" ? " in shadow" : ""} ${count(each.count)}`).join(" · ");
    const armed = rule.mode !== "enforce" ? "changes nothing" : rule.armed === false ? marked("disarmed, acts as shadow") : "armed";
    row.append(el("td", rule.name, "name"), el("td", rule.mode), el("td", armed), el("td", listed || "none in this window"), budget(rule));
    return row;
  }));
}

function budget(rule) {
  if (!words.known(rule.answers)) return el("td", rule.mode === "enforce" ? "no budget (disarm is not set)" : "", "quiet");
  const cell = el("td"), share = rule.answers ? rule.cut / rule.answers : 0, may = rule.budget / rule.of_last;
  const full = Math.min(rule.cut / Math.max(rule.budget, 1e-9), 1);
  const meter = svg("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width: 100 * full, height: 6, class: full >= 1 ? "bar-accent" : "bar-ink" }));
  cell.append(el("span", meter, "meter"), `${percent(share)} of ${count(rule.answers)}; may be ${percent(may)}`);
  return cell;
}
