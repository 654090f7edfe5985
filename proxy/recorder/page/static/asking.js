// What is asked, which is in the page's address, and how: with the token where there is one.

export const WINDOWS = [[60, "1 min"], [300, "5 min"], [900, "15 min"], [3600, "1 h"], [21600, "6 h"], [86400, "24 h"]];
export const FILTERS = ["model", "app", "upstream", "stream"];
export const asked = new URLSearchParams(location.search);

export const remember = () => history.replaceState(null, "", asked.size ? `?${asked}` : location.pathname);

export const filtered = () => FILTERS.some((name) => asked.has(name));

export const windowS = () => (WINDOWS.some(([length]) => String(length) === asked.get("window")) ? Number(asked.get("window")) : 900);

export function query(more = {}) {
  const parameters = new URLSearchParams({ window: windowS(), ...more });
  for (const name of FILTERS) if (asked.has(name)) parameters.set(name, asked.get(name));
  return parameters;
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Answers are JSON, but for the rule's text; the browser revalidates what it has by its tag.
export async function ask(path, as = "json") {
  const token = sessionStorage.getItem("token");
  const answer = await fetch(path, token ? { headers: { Authorization: `Bearer ${token}` } } : {});
  if (answer.ok) return answer[as]();
  const said = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, said.error || said.reason || answer.statusText);
}

// The clipboard's interface is for secure origins alone, and an admin port by its address is none.
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("this browser does not let a page copy");
  return undefined;
}
