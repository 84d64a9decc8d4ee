// Asking the server, the token, and the line of events that keeps a page live.

import { byId } from "./dom.js";

const KEY = "slipway-token";

// The token comes in the fragment, which is never sent to a server, and is taken out of the address at once.
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(history.state, "", location.pathname + location.search);
  }
}
export const hasToken = () => Boolean(sessionStorage.getItem(KEY));
export const keepToken = (token) => sessionStorage.setItem(KEY, token);
export const forgetToken = () => sessionStorage.removeItem(KEY);

export class Problem extends Error {
  constructor(status, content) {
    super([content.what, content.remedy].filter(Boolean).join(". "));
    this.status = status;
  }
}

async function answerOf(response) {
  let content = {};
  try { content = await response.json(); } catch { content = { what: `The server answered ${response.status}` }; }
  if (!response.ok) throw new Problem(response.status, content);
  return content;
}

export async function ask(path) {
  try {
    return await answerOf(await fetch(path, { headers: { accept: "application/json" } }));
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(0, { what: "The page's server does not answer", remedy: "Start it again: slipway ui" });
  }
}

export async function tell(path, content) {
  const headers = { "content-type": "application/json", authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
  try {
    return await answerOf(await fetch(path, { method: "POST", headers, body: JSON.stringify(content) }));
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(0, { what: "The page's server does not answer", remedy: "Start it again: slipway ui" });
  }
}

export function line(kind, text) {
  const element = byId("line");
  if (element.textContent === text) return;
  element.className = `line ${kind}`;
  element.textContent = text;
}

// Keeps a line of events while the page can be seen. `open` gives the path and runs before each connection.
export function listen(open, handlers) {
  let events = null;
  let ended = false;
  const stop = () => { events?.close(); events = null; };
  async function start() {
    stop();
    if (ended) return;
    let path;
    try { path = await open(); } catch (error) {
      line("lost", "Not connected");
      handlers.problem?.(error);
      setTimeout(() => { if (!document.hidden && events === null) start(); }, 2000);
      return;
    }
    events = new EventSource(path);
    events.onopen = () => line("live", "Live");
    // The browser would connect again by itself, but with what it knows; a fresh start misses nothing.
    events.onerror = () => { line("lost", "Connection lost, trying again"); stop(); setTimeout(() => { if (events === null && !document.hidden) start(); }, 1000); };
    for (const [name, handler] of Object.entries(handlers)) {
      if (name !== "problem") events.addEventListener(name, (event) => handler(JSON.parse(event.data)));
    }
    events.addEventListener("problem", (event) => handlers.problem?.(new Problem(0, JSON.parse(event.data))));
    events.addEventListener("end", () => { ended = true; stop(); line("", "Ended"); });
  }
  document.addEventListener("visibilitychange", () => { if (document.hidden) stop(); else if (events === null) start(); });
  start();
}
