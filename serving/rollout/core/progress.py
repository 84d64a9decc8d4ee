"""At a step: whether the data is there, whether every guardrail is met, and who goes on."""

from __future__ import annotations

from dataclasses import replace

from slipway.contracts.durations import describe_seconds
from slipway.contracts.rollout import ASSIGNMENT, RolloutPolicy
from slipway.serving.rollout.core import health
from slipway.serving.rollout.core.observations import Observations, Target
from slipway.serving.rollout.core.transitions import begin_rollback, drop, to_phase, to_step
from slipway.serving.rollout.core.types import Clock, Outcome, Phase, State, Verdict


def deciding(state: State) -> list[Verdict]:
    """Returns the verdicts that decide: those of candidates still in the running, without dry runs."""
    active = {target.arm for target in state.active}
    return [verdict for verdict in state.verdicts if not verdict.dry_run and verdict.arm in active]


def progress(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    """One look at a step."""
    step = policy.steps[state.step]
    if now - state.started > policy.deadline and state.frozen_since is None:
        limit = describe_seconds(policy.deadline)
        return begin_rollback(state, f"Not promoted within the rollout's deadline of {limit}.", now)
    if not health.traffic_in_force(state, observations):
        share = f"{step.weight} %" if not step.mirror else f"copies of {step.mirror} %"
        names = ", ".join(target.arm for target in state.active)
        return replace(state, reason=f"Waiting until the gateway gives {names} {share}.")
    if state.step_since is None:
        with_traffic = step.weight > 0 or step.mirror > 0
        traffic_since = now if state.traffic_since is None and with_traffic else state.traffic_since
        return replace(
            state, step_since=now, traffic_since=traffic_since, reason=f"{_at(state, policy)}; collecting evidence."
        )
    if state.stable is None:
        return to_phase(state, Phase.PROMOTING, "First version: smoke test passed and traffic is on it.", now)
    if state.forced or state.skip:
        return _advance(state, policy, "Without proof, as a person asked.", now)
    return _weigh(state, policy, state.step_since, state.stable, now)


def _at(state: State, policy: RolloutPolicy) -> str:
    step = policy.steps[state.step]
    return f"At {step.weight} %" if not step.mirror else f"Answering copies of {step.mirror} % of requests"


def _weigh(state: State, policy: RolloutPolicy, step_since: float, stable: Target, now: float) -> State:
    """Decides whether the next step is due: stable healthy, data there, traffic split as set, every guardrail met."""
    step = policy.steps[state.step]
    if step.weight < 100 and not state.stable_was_healthy:
        alarm = f"{stable.arm}, the stable version, is not healthy; the rollout holds."
        return replace(state, reason=alarm, alarm=alarm)
    missing = _without_data(state, policy, now)
    if missing is not None:
        if policy.no_data.then == "rollback":
            return begin_rollback(state, missing, now)
        return replace(state, reason=missing, alarm=missing)
    split = next((verdict for verdict in deciding(state) if verdict.guardrail == ASSIGNMENT and not verdict.met), None)
    since = now if state.mismatch_since is None else state.mismatch_since
    state = replace(state, mismatch_since=None if split is None else since)
    if split is not None:
        state = replace(state, reason=split.explanation, alarm=split.explanation)
        if now - since > policy.no_data.hold_for and policy.no_data.then == "rollback":
            return begin_rollback(state, split.explanation, now)
        return state
    return _require(state, policy, now - step_since, now)


def _require(state: State, policy: RolloutPolicy, dwell: float, now: float) -> State:
    """Goes on where the candidates fulfil what the step requires, and says what is missing where they do not."""
    step = policy.steps[state.step]
    ready = _ready_to_go_on(state, policy)
    due = step.minimum_dwell
    if policy.horizon == "fixed" and step.compares and step.deadline is not None:
        due = max(due, step.deadline)
    if ready and dwell >= due:
        return _gate(_choose(state, policy, ready, now), policy, _fulfilled(state, ready), now)
    if step.deadline is not None and dwell > step.deadline and state.frozen_since is None:
        return _inconclusive(state, policy, now)
    if ready:
        return replace(state, reason=f"{_fulfilled(state, ready)} {describe_seconds(due - dwell)} left.")
    waiting = _names(_open(state, policy)) or "the first readings"
    return replace(state, reason=f"{_at(state, policy)}; waiting for {waiting}.")


def _asked(state: State, policy: RolloutPolicy) -> list[Verdict]:
    """Returns the verdicts that this step is about: copies of requests get no feedback, and wait for none."""
    idle = {one.name for one in policy.guardrails if not policy.applies(state.step, one)}
    return [verdict for verdict in deciding(state) if verdict.guardrail not in idle]


def _open(state: State, policy: RolloutPolicy) -> list[Verdict]:
    return [verdict for verdict in _asked(state, policy) if not verdict.met]


def _names(verdicts: list[Verdict]) -> str:
    return ", ".join(dict.fromkeys(f"{verdict.guardrail} ({verdict.requirement})" for verdict in verdicts))


def _fulfilled(state: State, ready: list[Target]) -> str:
    if len(state.active) == 1:
        return "Every guardrail fulfils what this step requires."
    return f"Fulfilled by {', '.join(target.arm for target in ready)}."


def _ready_to_go_on(state: State, policy: RolloutPolicy) -> list[Target]:
    """Returns the candidates with which the rollout may go on: all of them, or, where only one can, those that may."""
    step = policy.steps[state.step]
    if not step.compares and step.weight == 0:
        return list(state.active)
    unmet = {verdict.arm for verdict in _open(state, policy)}
    ready = [target for target in state.active if target.arm not in unmet and _all_judged(state, policy, target)]
    return ready if len(ready) == len(state.active) or _one_goes_on(state, policy) else []


def _one_goes_on(state: State, policy: RolloutPolicy) -> bool:
    """Returns whether the next step has room for one candidate only."""
    following = policy.steps[state.step + 1 :]
    return len(state.active) > 1 and bool(following) and following[0].weight * len(state.active) > 100


def _choose(state: State, policy: RolloutPolicy, ready: list[Target], now: float) -> State:
    """Returns the state without those that lose where only one can go on: the best by what had to be proven stays."""
    if not _one_goes_on(state, policy):
        return state
    best = max(ready, key=lambda target: _merit(state, policy, target))
    losers = {target.arm: f"{best.arm} goes on instead." for target in state.active if target.arm != best.arm}
    return drop(state, losers, now, remember=False)


def _merit(state: State, policy: RolloutPolicy, target: Target) -> tuple[bool, float]:
    """Returns how good a candidate is by the first guardrail that asks for most; larger is better."""
    # To answer as stable does is no merit.
    compared = [guardrail for guardrail in policy.guardrails if not guardrail.is_similarity]
    higher = {guardrail.name: guardrail.higher_is_better for guardrail in compared}
    own = [verdict for verdict in deciding(state) if verdict.arm == target.arm and verdict.value is not None]
    order = {"better": 0, "proven": 1, "noHarm": 2}
    for verdict in sorted(own, key=lambda verdict: order[verdict.requirement]):
        if verdict.guardrail in higher:
            value = verdict.value or 0.0
            return True, value if higher[verdict.guardrail] else -value
    return False, 0.0


def _all_judged(state: State, policy: RolloutPolicy, target: Target) -> bool:
    judged = {verdict.guardrail for verdict in state.verdicts if verdict.arm == target.arm}
    return all(one.name in judged for one in policy.guardrails if policy.applies(state.step, one))


def _without_data(state: State, policy: RolloutPolicy, now: float) -> str | None:
    """Returns which guardrail has had no usable reading for longer than the policy allows, or None."""
    step = policy.steps[state.step]
    if (step.weight == 0 and not step.mirror) or state.step_since is None:
        return None
    for guardrail in policy.guardrails:
        if not policy.applies(state.step, guardrail):
            continue
        clock = state.clocks.get(guardrail.name, Clock())
        since = max(state.step_since, clock.last_data if clock.last_data is not None else state.step_since)
        if not guardrail.dry_run and now - since > policy.no_data.hold_for:
            why = f" ({clock.error})" if clock.error else ""
            return f"No usable reading of {guardrail.name} for {describe_seconds(now - since)}{why}."
    return None


def _inconclusive(state: State, policy: RolloutPolicy, now: float) -> State:
    """The step's deadline has passed without its requirements fulfilled."""
    missing = _names(_open(state, policy)) or "the dwell time"
    reason = f"Step {state.step + 1} reached its deadline without {missing}."
    if policy.inconclusive == "rollback":
        return begin_rollback(state, reason, now)
    if policy.inconclusive == "proceed" and policy.steps[state.step].requires != "better":
        harmless = [target for target in state.active if _is_harmless(state, policy, target)]
        if len(harmless) == len(state.active) or (harmless and _one_goes_on(state, policy)):
            chosen = _choose(state, policy, harmless, now)
            return _gate(chosen, policy, f"{reason} No evidence of harm: proceeding, as the policy says.", now)
    return replace(state, reason=f"{reason} Holding.", alarm=f"{reason} Holding.")


def _is_harmless(state: State, policy: RolloutPolicy, target: Target) -> bool:
    own = [verdict for verdict in _asked(state, policy) if verdict.arm == target.arm]
    usable = all(verdict.enough and verdict.outcome in (Outcome.PASS, Outcome.INCONCLUSIVE) for verdict in own)
    return usable and _all_judged(state, policy, target)


def _gate(state: State, policy: RolloutPolicy, reason: str, now: float) -> State:
    if state.phase is not Phase.PROGRESSING:
        return state
    if policy.steps[state.step].gate and not state.approved:
        return to_phase(state, Phase.AWAITING_GATE, f"{reason} Waiting for approval.", now)
    frozen = policy.frozen(now)
    if frozen is not None and state.step + 1 < len(policy.steps):
        return replace(state, reason=f"{reason} Holding: {frozen}.")
    return _advance(state, policy, reason, now)


def _advance(state: State, policy: RolloutPolicy, reason: str, now: float) -> State:
    if policy.strategy == "shadow" and state.step + 1 == len(policy.steps):
        return to_phase(replace(state, mirrors={}), Phase.COMPLETING, reason, now)
    if state.step + 1 < len(policy.steps):
        return to_step(state, policy, _next_step(state, policy), reason, now)
    return to_phase(replace(state, alias_moved=True), Phase.PROMOTING, reason, now)


def _next_step(state: State, policy: RolloutPolicy) -> int:
    """Returns the next step; the last one where the policy promotes early and every guardrail is proven already."""
    last = len(policy.steps) - 1
    proven = policy.early_promotion and all(
        verdict.met and verdict.outcome is Outcome.PASS and verdict.requirement != "better"
        for verdict in deciding(state)
    )
    return last if proven and policy.steps[state.step].compares and len(state.active) == 1 else state.step + 1
