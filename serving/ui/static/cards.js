// One card a guardrail: its verdict, what that means, and its interval over time.

import { intervalChart } from "./charts.js";
import { byId, h, show } from "./dom.js";
import { interval, measureOf, number, percent, whole } from "./format.js";
import { outcomeBadge } from "./parts.js";

const cards = new Map();
let guardrails = {};

const fact = (name, value, wide = false) => h("div", { class: wide ? "wide" : null }, h("dt", {}, name), h("dd", {}, value));

export function facts(verdict) {
  const measure = measureOf(verdict.measure);
  const seen = verdict.measure === "mean_difference" ? number : percent;
  const alike = isLimit(verdict.guardrail);
  const level = (rate, samples) => (rate === null ? `${whole(samples)} samples` : `${seen(rate)} of ${whole(samples)}`);
  return h("dl", { class: "facts" },
    alike ? fact("Pairs of answers", whole(verdict.samples)) : fact("Candidate", level(verdict.candidate_rate, verdict.samples)),
    alike ? null : fact("Stable", verdict.stable_samples ? level(verdict.stable_rate, verdict.stable_samples) : "no samples"),
    verdict.part ? fact("Objective that decides", `${number(verdict.part)} s`) : null,
    lift(verdict),
    fact(alike ? "Limit" : "Margin", measure.text(verdict.margin)),
    fact("Samples at this step", `${whole(verdict.step_samples)} of at least ${whole(verdict.minimum_samples)}`),
    evidence(verdict),
    fact("Interval", interval(verdict), true));
}

// Answers to copies are held against a limit of their own, and not against stable.
const isLimit = (name) => (guardrails[name]?.limit ?? null) !== null;

// Where an odds ratio and a difference are tolerated, harm has to be beyond both: the evidence is the smaller one.
function evidence(verdict) {
  return fact("Evidence of harm", `${number(Math.exp(Math.min(verdict.log_evidence_harm, 50)))}; enough from ${number(Math.exp(verdict.log_evidence_needed))}`);
}

// Of the events themselves, in percent more or less than stable.
function lift(verdict) {
  if (verdict.lift === null || verdict.lift === undefined) return null;
  const signed = (value) => (value === null ? "unknown" : `${value > 0 ? "+" : ""}${percent(value)}`);
  return fact("Change of the rate", `${signed(verdict.lift)} (${signed(verdict.lift_lower)} to ${signed(verdict.lift_upper)})`);
}

function make(verdict, detail) {
  const head = h("div", {});
  const charts = h("div", {});
  const foot = h("div", {});
  const element = h("article", { class: "card", "data-guardrail": verdict.guardrail }, head, charts, foot);
  const better = detail.guardrails[verdict.guardrail]?.higher_is_better ?? null;  // null: not known
  return { element, head, charts, foot, better, byMeasure: new Map() };
}

function showCharts(card, verdict, points, from, to) {
  // A verdict may rest on an odds ratio at one look and on a difference at another: the one shown now, and the usual one.
  const counts = new Map();
  for (const point of points) {
    if (point.lower !== null || point.upper !== null) counts.set(point.measure, (counts.get(point.measure) ?? 0) + 1);
  }
  const usual = [...counts].sort((one, other) => other[1] - one[1])[0]?.[0];
  const wanted = [...new Set([usual, verdict.measure])].filter((measure) => (counts.get(measure) ?? 0) >= 2);
  for (const [measure, chart] of card.byMeasure) {
    if (!wanted.includes(measure)) { chart.element.remove(); card.byMeasure.delete(measure); }
  }
  for (const measure of wanted) {
    if (!card.byMeasure.has(measure)) {
      const chart = intervalChart(verdict.guardrail, measure, card.better, isLimit(verdict.guardrail) ? "limit" : "margin");
      card.byMeasure.set(measure, chart);
      card.charts.append(chart.element);
    }
    const shown = points.map((point, index) => ({ ...point, gap: index > 0 && points[index - 1].measure !== measure }));
    card.byMeasure.get(measure).update(shown.filter((point) => point.measure === measure), from, to);
  }
}

export function showCards(detail, series, from, to) {
  const box = byId("guardrails");
  guardrails = detail.guardrails;
  const several = detail.candidates.length > 1;
  const keys = detail.verdicts.map((verdict) => `${verdict.guardrail}/${verdict.arm}`);
  for (const [key, card] of cards) if (!keys.includes(key)) { card.element.remove(); cards.delete(key); }
  if (keys.length === 0 && box.childElementCount === 0) box.append(h("p", { class: "quiet", id: "no-verdict" }, "No verdict yet: verdicts begin with the first traffic."));
  if (keys.length > 0) byId("no-verdict")?.remove();
  detail.verdicts.forEach((verdict) => {
    const key = `${verdict.guardrail}/${verdict.arm}`;
    if (!cards.has(key)) {
      cards.set(key, make(verdict, detail));
      box.append(cards.get(key).element);
    }
    const card = cards.get(key);
    const title = several ? `${verdict.guardrail} of ${verdict.arm}` : verdict.guardrail;
    const met = verdict.outcome === "FAIL" ? "not fulfilled" : verdict.met ? "✓ fulfilled" : "not fulfilled yet";
    show(card.head, h("header", {}, h("h3", {}, title), outcomeBadge(verdict.outcome), verdict.dry_run ? h("span", { class: "badge" }, "dry run: decides nothing") : null,
      verdict.arm in detail.dropped ? h("span", { class: "badge" }, "no longer in it") : null),
      h("p", {}, verdict.explanation),
      verdict.guardrail === "assignment" ? null : h("p", { class: "quiet" }, `This step requires ${verdict.requirement} (${verdict.requirement_meaning}): ${met}.`));
    if (verdict.guardrail !== "assignment") {
      showCharts(card, verdict, series.guardrails[key] ?? [], from, to);
      show(card.foot, facts(verdict));
    }
  });
}
