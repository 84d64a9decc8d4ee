// Small pieces that both pages show. A sign and a word stand beside every colour.

import { h } from "./dom.js";
import { OUTCOMES, PHASES } from "./format.js";

function badge(kind, sign, word) {
  return h("span", { class: `badge ${kind}` }, h("span", { "aria-hidden": "true" }, sign), word);
}

export function phaseBadge(phase) {
  const [kind, sign] = PHASES[phase] ?? ["plain", "•"];
  return badge(kind, sign, phase);
}

export function outcomeBadge(outcome) {
  const [kind, sign] = OUTCOMES[outcome] ?? ["plain", "•"];
  return badge(kind, sign, outcome);
}
