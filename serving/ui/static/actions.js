// Buttons, and the dialog that asks before anything is changed.

import { forgetToken, hasToken, keepToken, tell } from "./connection.js";
import { byId, h } from "./dom.js";

const WORDS = {
  approve: ["Approve", "main", (r) => `Open the gate: ${r.candidate} goes on to the next step.`],
  resume: ["Resume", "main", () => "Go on where the rollout was paused. Its timers go on from where they stood."],
  pause: ["Pause", "", (r) => `Hold the weights where they are (${r.candidate} at ${r.weight} %). Hard faults and evidence of harm still take it back.`],
  skip: ["Skip step", "", (r) => `Go to the next step now, without waiting for what step ${r.step} requires.`],
  promote: ["Promote", "", (r) => `Give ${r.candidate} all traffic now, whatever the verdicts still leave open.`],
  retry: ["Retry", "main", (r) => `Start a new rollout of ${r.candidate}, from its first step.`],
  abort: ["Abort", "danger", (r) => `Take ${r.candidate} back now: ${r.stable ? `all traffic goes to ${r.stable}` : "it gets no more traffic"}, then ${r.candidate} is stopped.`],
};

let current = null;
let asked = null;
let given = () => {};

export const nameOf = (kind) => WORDS[kind]?.[0] ?? kind;

function pointsFor(kind, rollout) {
  const open = rollout.verdicts.filter((verdict) => !verdict.met && !verdict.dry_run);
  if (!["promote", "skip", "approve"].includes(kind) || open.length === 0) return [];
  return open.map((verdict) => `${verdict.guardrail} is ${verdict.outcome} and the step requires ${verdict.requirement}`);
}

function ask(kind) {
  asked = { kind, rollout: current.rollout };
  const facts = { ...current, candidate: current.candidates.join(", ") || current.rollout };
  const [name, style, words] = WORDS[kind];
  byId("confirm-title").textContent = `${name} ${facts.candidate}?`;
  byId("confirm-text").textContent = words(facts);
  byId("confirm-points").replaceChildren(...pointsFor(kind, current).map((point) => h("li", {}, point)));
  byId("confirm-yes").textContent = `${name} ${facts.candidate}`;
  byId("confirm-yes").className = style;
  byId("confirm-yes").disabled = false;
  byId("confirm-problem").hidden = true;
  byId("token-row").hidden = hasToken();
  byId("confirm").showModal();
  byId("confirm-no").focus();
}

async function send(event) {
  event.preventDefault();
  const yes = byId("confirm-yes");
  const typed = byId("token").value.trim();
  if (!byId("token-row").hidden && typed) keepToken(typed);
  yes.disabled = true;
  try {
    const answer = await tell(`/api/rollouts/${encodeURIComponent(asked.rollout)}/commands`, { kind: asked.kind });
    byId("token").value = "";
    byId("confirm").close();
    given(asked.kind, answer);
  } catch (error) {
    yes.disabled = false;
    byId("confirm-problem").hidden = false;
    byId("confirm-problem").textContent = error.message;
    if (error.status === 401) {
      forgetToken();
      byId("token-row").hidden = false;
      byId("token").focus();
    }
  }
}

// The dialog keeps the focus inside: from the last control on to the first, and back.
function keepFocus(event) {
  if (event.key !== "Tab") return;
  const inside = [...byId("confirm").querySelectorAll("button, input")].filter((element) => !element.disabled && element.offsetParent !== null);
  const first = inside[0], last = inside.at(-1);
  if (event.shiftKey && document.activeElement === first) { event.preventDefault(); last.focus(); }
  else if (!event.shiftKey && document.activeElement === last) { event.preventDefault(); first.focus(); }
}

export function setUp(onGiven) {
  given = onGiven;
  byId("confirm-form").addEventListener("submit", send);
  byId("confirm-no").addEventListener("click", () => byId("confirm").close());
  byId("confirm").addEventListener("keydown", keepFocus);
}

export function showActions(rollout) {
  current = rollout;
  const box = byId("actions");
  const wanted = rollout.commands.filter((kind) => kind in WORDS);
  const shown = [...box.children].map((button) => button.dataset.kind);
  if (wanted.join() === shown.join()) return;
  const focused = document.activeElement?.dataset?.kind;
  box.replaceChildren(...wanted.map((kind) => h("button", { type: "button", class: WORDS[kind][1], "data-kind": kind, onclick: () => ask(kind) }, nameOf(kind))));
  box.hidden = wanted.length === 0;
  // The button that had the focus may be gone; the keyboard goes on from its place all the same.
  if (focused) (box.querySelector(`[data-kind="${focused}"]`) ?? box.querySelector("button") ?? byId("main")).focus();
}
