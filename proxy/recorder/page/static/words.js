// Figures as they are read: with units, and a dash where nothing is known, which is never a nought.

export const UNKNOWN = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const minutes = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

export const known = (value) => value !== null && value !== undefined;
export const count = (value) => (known(value) ? whole.format(value) : UNKNOWN);
export const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;

export function short(value) {
  if (!known(value)) return UNKNOWN;
  if (value >= 1024 && value % 512 === 0 && value % 1000) return `${trim(value / 1024)}k`; // a number of tokens
  if (value >= 1e6) return `${trim(value / 1e6)}M`;
  return value >= 1000 ? `${trim(value / 1000)}k` : trim(value);
}

function trim(value) {
  return String(Number(value.toPrecision(value < 100 ? 2 : 3)));
}

export function percent(share) {
  if (!known(share)) return UNKNOWN;
  const digits = share > 0 && share < 0.001 ? 2 : share < 0.9995 && share > 0 ? 1 : 0;
  return `${(share * 100).toFixed(digits)}%`;
}

export function seconds(value) {
  if (!known(value)) return UNKNOWN;
  if (value === 0) return "0 s";
  if (value < 0.0001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 0.01) return `${(value * 1000).toFixed(2)} ms`;
  if (value < 0.1) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 1) return `${(value * 1000).toFixed(0)} ms`;
  if (value < 120) return `${value.toFixed(2)} s`;
  return value < 7200 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;
}

export function rate(perSecond) {
  if (!known(perSecond)) return UNKNOWN;
  return perSecond >= 100 ? whole.format(perSecond) : perSecond >= 10 ? perSecond.toFixed(1) : perSecond.toFixed(2);
}

export const at = (unixSeconds) => clock.format(unixSeconds * 1000);
export const minute = (unixSeconds) => minutes.format(unixSeconds * 1000);
export const date = (unixSeconds) => day.format(unixSeconds * 1000);

export const last = (seconds_) => `the last ${span(seconds_).replace(/^1 /, "")}`;

export const span = (seconds_) =>
  seconds_ < 60 ? plural(seconds_, "second", "seconds") : seconds_ < 3600 ? plural(seconds_ / 60, "minute", "minutes") : plural(seconds_ / 3600, "hour", "hours");
