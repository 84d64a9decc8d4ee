// One rollout, live.

import { nameOf, setUp as setUpActions, showActions } from "./actions.js";
import { showCards } from "./cards.js";
import { weightChart } from "./charts.js";
import { ask, line, listen, takeToken } from "./connection.js";
import { byId, h, show } from "./dom.js";
import { PHASES, date, duration, number, whole } from "./format.js";
import * as log from "./log.js";
import { phaseBadge } from "./parts.js";

const rollout = byId("rollout").dataset.rollout;
const path = `/api/rollouts/${encodeURIComponent(rollout)}`;
let detail = null;
let series = null;
let phase = null;
let logged = null;  // the last decision that the log has
let drawn = 0;  // the last one that the charts have
let chart = null;
let problem = null;

const say = (text) => { byId("said").textContent = text; };
const now = () => (detail.terminal ? detail.ended : Math.max(Date.now() / 1000, last()));
const last = () => Math.max(series.weights.at(-1)?.at ?? 0, series.events.at(-1)?.at ?? 0);

function standing() {
  const since = detail.terminal || detail.phase_since === null ? null : `for ${duration(now() - detail.phase_since)}`;
  const took = detail.started === null ? null : detail.terminal ? `took ${duration(detail.ended - detail.started)}` : `started ${date(detail.started)}, ${duration(now() - detail.started)} ago`;
  show(byId("standing"), phaseBadge(detail.phase), h("span", {}, PHASES[detail.phase]?.[2] ?? ""),
    detail.step === null ? null : h("span", {}, `step ${detail.step} of ${detail.steps}`), since ? h("span", {}, since) : null, took ? h("span", {}, took) : null,
    h("p", { class: "reason" }, detail.reason));
}

function notices() {
  const found = [];
  if (problem) found.push(h("p", { class: "notice bad", role: "alert" }, `✕ ${problem}`));
  if (detail?.alarm) found.push(h("p", { class: "notice bad", role: "alert" }, `! ALARM: ${detail.alarm}`));
  if (detail && !detail.served && !detail.terminal) found.push(h("p", { class: "notice warn" }, "! Nothing runs this rollout: the serving plane is down. Start it with ", h("code", {}, "slipway up"), "; the rollout goes on where it was."));
  if (detail?.waits_for) found.push(h("p", { class: "notice" }, "Another rollout has to end first: ", h("a", { href: `/rollouts/${encodeURIComponent(detail.waits_for)}` }, detail.waits_for)));
  for (const command of detail?.pending ?? []) found.push(h("p", { class: "notice" }, `${nameOf(command.kind)} was given by ${command.by}; the controller has not taken it up yet.`));
  for (const [arm, why] of Object.entries(detail?.dropped ?? {})) found.push(h("p", { class: "notice warn" }, h("strong", {}, `↩ ${arm} is no longer in it. `), why));
  if (detail?.unreadable) found.push(h("p", { class: "notice warn" }, `! ${detail.unreadable}`));
  if (detail?.read_only && !detail.terminal) found.push(h("p", { class: "quiet" }, "This page is read-only: commands are given with slipway rollout."));
  show(byId("notices"), found);
}

function steps() {
  const reached = detail.step ?? 0;
  const gone = ["Promoted", "Completed"].includes(detail.phase);
  const items = detail.policy.steps.map((step, index) => {
    const place = index + 1;
    const here = place === reached && !gone;
    const state = here ? (detail.terminal ? "ended here" : "here") : gone || place < reached ? "✓ done" : "to come";
    const copies = step.mirror ? `${step.mirror} % copied` : `${step.weight} %`;
    return h("li", { class: here ? "here" : gone || place < reached ? "done" : "", "aria-current": here ? "step" : null }, h("strong", {}, copies), `${place}: ${state}${step.gate ? ", gate" : ""}`);
  });
  show(byId("steps"), items);
}

function charts() {
  const arms = [...detail.candidates, ...(detail.stable ? [detail.stable] : [])];
  for (const arm of Object.keys(detail.weights)) if (!arms.includes(arm)) arms.push(arm);
  const points = series.weights;
  const from = Math.min(detail.started ?? Infinity, points[0]?.at ?? Infinity);
  if (points.length) {
    if (chart === null) { chart = weightChart(); byId("weights").append(chart.element); }
    chart.update(points, series.in_force, series.events, arms, from, now());
  }
  const traffic = Object.values(series.guardrails).map((found) => found[0]?.at ?? Infinity);
  const begin = Math.min(...traffic, now());
  showCards(detail, series, begin, Math.max(...Object.values(series.guardrails).map((found) => found.at(-1)?.at ?? 0), begin + 1));
}

// What an answer of each version costs; judged by nothing.
function costs() {
  const arms = Object.entries(detail.resources);
  byId("costs-part").hidden = arms.length === 0;
  show(byId("costs"), h("thead", {}, h("tr", {}, ["Version", "Processor time of an answer", "Memory of an answer", "Memory of a process", "Processes", "Answers"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, arms.map(([arm, use]) => h("tr", {}, h("th", { scope: "row" }, arm),
      h("td", { "data-label": "Processor time of an answer" }, use.cpu_milliseconds === null ? "none" : `${number(use.cpu_milliseconds)} ms`),
      h("td", { "data-label": "Memory of an answer" }, use.mebibyte_seconds === null ? "none" : `${number(use.mebibyte_seconds)} MiB·s`),
      h("td", { "data-label": "Memory of a process" }, `${whole(use.mebibytes)} MiB`), h("td", { "data-label": "Processes" }, whole(use.processes)), h("td", { "data-label": "Answers" }, whole(use.answers))))));
}

function words() {
  const entries = [...Object.entries(detail.meanings.verdicts), ...Object.entries(detail.meanings.requirements)];
  show(byId("words"), entries.flatMap(([word, meaning]) => [h("dt", {}, word), h("dd", {}, meaning)]));
  byId("policy").textContent = JSON.stringify({ ...detail.policy, guardrails: detail.guardrails }, null, 2);
}

function showAll() {
  const names = detail.candidates.join(", ") || rollout;
  byId("title").textContent = detail.stable ? `${names} over ${detail.stable}` : names;
  document.title = `${detail.phase}: ${names} · Slipway`;
  standing(); notices(); steps(); charts(); costs(); showActions(detail);
  if (phase !== null && phase !== detail.phase) say(`${detail.phase}. ${detail.reason}`);
  phase = detail.phase;
}

function told(error) {
  problem = error === null ? null : error.message;
  notices();
}

function grow(message) {
  for (const decision of message.decisions) {
    if (decision.sequence <= drawn) continue;
    if (Object.keys(decision.in_force).length) series.in_force.push({ at: decision.at, sequence: decision.sequence, weights: decision.in_force });
    if (Object.keys(decision.weights).length && JSON.stringify(series.weights.at(-1)?.weights) !== JSON.stringify(decision.weights)) series.weights.push({ at: decision.at, weights: decision.weights });
  }
  const fresh = (point) => point.sequence > drawn;
  series.events.push(...message.events.filter(fresh));
  for (const [key, points] of Object.entries(message.guardrails)) (series.guardrails[key] ??= []).push(...points.filter(fresh));
  log.add(message.decisions.filter((decision) => decision.sequence > logged));
  logged = Math.max(logged, message.decisions.at(-1)?.sequence ?? 0);
  drawn = Math.max(drawn, logged);
  charts();
}

async function open() {
  const found = await ask(path);
  ({ detail, series } = found);
  drawn = found.decisions;
  // What was decided while the page was not connected is missing in the log, not in the charts, which came anew.
  logged ??= drawn;
  problem = null;
  showAll(); words();
  await log.start();
  return `${path}/stream?after=${logged}`;
}

takeToken();
log.setUp(rollout, told);
setUpActions((kind, answer) => {
  say(`${nameOf(kind)} was given.`);
  if (answer.rollout !== rollout) location.assign(`/rollouts/${encodeURIComponent(answer.rollout)}`);
});
listen(open, {
  state: (fresh) => { detail = fresh; showAll(); },
  decisions: grow,
  problem: (error) => { line("lost", "Trouble"); told(error); },
});
setInterval(() => { if (detail && !detail.terminal && !document.hidden) standing(); }, 1000);
