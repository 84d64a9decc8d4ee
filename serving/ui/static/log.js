// The log of decisions, newest first: each opens to its readings, bounds, samples, rule and queries.

import { ask } from "./connection.js";
import { byId, h } from "./dom.js";
import { OUTCOMES, clock, whole, number } from "./format.js";
import { facts } from "./cards.js";
import { outcomeBadge } from "./parts.js";

const entries = new Map();
const known = new Map();
let path = "";
let oldest = null;
let generation = 0;

const kind = () => document.querySelector("input[name=kind]:checked").value;
const say = (text) => { byId("said").textContent = text; };

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    say("Copied");
  } catch {
    const range = document.createRange();
    range.selectNodeContents(button.previousElementSibling);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function queries(verdict) {
  const lines = [];
  for (const [arm, text] of Object.entries(verdict.queries)) {
    const [events, rest] = text.split(" out of ");
    const [total, squares] = (rest ?? "").split(", squares ");
    const parts = [["events", events], ["out of", total], ["squares", squares]];
    for (const [what, query] of parts.filter(([, query], index) => query && (index === 0 || query !== events))) {
      lines.push(h("li", {}, h("span", { class: "query" }, query),
        h("button", { type: "button", class: "small", "aria-label": `Copy the query of ${verdict.guardrail}, ${arm}, ${what}`, onclick: (event) => copy(query, event.currentTarget) }, "Copy")));
    }
  }
  return lines.length ? [h("p", { class: "quiet" }, "Queries, as Prometheus takes them: events, and what they are counted out of."), h("ul", { class: "queries" }, lines)] : null;
}

function readings(verdict) {
  const read = Object.entries(verdict.readings);
  if (read.length === 0) return null;
  return h("p", {}, "Read: ", read.map(([arm, reading], index) => {
    const amount = "events" in reading ? `${whole(reading.events)} of ${whole(reading.n)}` : "total" in reading ? `sum ${number(reading.total)} of ${whole(reading.n)}` : `${whole(reading.counts.reduce((sum, value) => sum + value, 0))} values`;
    return `${index ? "; " : ""}${arm} ${amount} (${clock(reading.start)} to ${clock(reading.end)}, ${reading.windows} window${reading.windows === 1 ? "" : "s"})`;
  }), ".");
}

function judged(verdict) {
  return h("div", { class: "judged" },
    h("header", { class: "actions" }, h("h3", {}, verdict.guardrail), outcomeBadge(verdict.outcome)),
    h("p", {}, verdict.explanation), h("p", { class: "quiet" }, verdict.meaning), readings(verdict),
    verdict.guardrail === "assignment" ? null : facts(verdict), queries(verdict));
}

function inside(decision) {
  const rests = known.get(decision.evidence);
  const weights = Object.entries(decision.weights).map(([arm, weight]) => `${arm} ${weight} %`).join(", ");
  return [
    h("p", {}, h("strong", {}, "Rule: "), decision.rule || "none was written down"),
    decision.events.length > 1 ? h("ul", {}, decision.events.map((event) => h("li", {}, `${event.kind}: ${event.message}`))) : null,
    weights ? h("p", {}, `Weights decided: ${weights}.`) : null,
    rests === undefined ? h("p", { class: "quiet" }, "It rests on no reading.") : null,
    rests !== undefined && rests !== decision ? h("p", { class: "quiet" }, `It rests on the readings of ${clock(rests.at)}:`) : null,
    (rests?.guardrails ?? []).map(judged),
  ];
}

function title(decision) {
  if (decision.events.length) return decision.events.map((event) => (event.kind === "alarm" ? `! ALARM ${event.message}` : event.kind === "command" ? `Command: ${event.message}` : event.message)).join(" · ");
  return `${decision.rule || "Look"} (${decision.guardrails.map((verdict) => `${verdict.guardrail} ${OUTCOMES[verdict.outcome]?.[1] ?? ""} ${verdict.outcome}`).join(", ")})`;
}

function entry(decision) {
  const box = h("div", { class: "inside" });
  const element = h("details", { ontoggle: () => { if (element.open && !box.firstChild) box.append(...inside(decision).flat(3).filter(Boolean)); } },
    h("summary", {}, h("span", { class: "when" }, clock(decision.at)), title(decision)), box);
  return h("li", {}, element);
}

function place(decision, where) {
  if (entries.has(decision.sequence)) return;
  const element = entry(decision);
  entries.set(decision.sequence, element);
  if (where === "newest") byId("log").prepend(element); else byId("log").append(element);
}

function remember(decision) {
  known.set(decision.sequence, decision);
}

async function load() {
  const mine = generation;
  const before = oldest === null ? "" : `&before=${oldest}`;
  const page = await ask(`${path}?kind=${kind()}${before}`);
  if (mine !== generation) return;
  for (const decision of Object.values(page.evidence)) remember(decision);
  for (const decision of page.decisions) { remember(decision); place(decision, "oldest"); }
  oldest = page.decisions.at(-1)?.sequence ?? oldest;
  byId("more").hidden = page.older === 0;
  byId("more").textContent = `Show older decisions (${page.older})`;
}

function anew() {
  generation += 1;
  entries.clear();
  oldest = null;
  byId("log").replaceChildren();
  return load();
}

export function setUp(rollout, onProblem) {
  path = `/api/rollouts/${encodeURIComponent(rollout)}/decisions`;
  byId("more").addEventListener("click", () => load().catch(onProblem));
  byId("kinds").addEventListener("change", () => anew().catch(onProblem));
}

export const start = () => (entries.size === 0 ? anew() : Promise.resolve());

export function add(decisions) {
  for (const decision of decisions) {
    remember(decision);
    if (kind() === "all" || decision.events.length) {
      place(decision, "newest");
      oldest ??= decision.sequence;
    }
  }
}
