"""One rollout as the page shows it: where it stands, by which policy, and what a person may tell it now."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from slipway.contracts.errors import ArtifactError
from slipway.contracts.rollout import CommandKind, Guardrail, RolloutPolicy, RolloutSpec
from slipway.serving.rollout.core.commands import take_commands
from slipway.serving.rollout.core.observations import Command, Observations
from slipway.serving.rollout.core.serialization import from_plain
from slipway.serving.rollout.core.types import TERMINAL, State
from slipway.serving.rollout.event_stream import OUTCOME_MEANINGS, REQUIREMENT_MEANINGS
from slipway.serving.rollout.resources import per_answer
from slipway.serving.ui.source import RolloutSummary

COMMANDS: tuple[CommandKind, ...] = ("approve", "resume", "pause", "skip", "promote", "retry", "abort")
"""In the order in which the page offers them: what goes on first, what goes back last."""

_BEFORE_STATE: tuple[CommandKind, ...] = ("pause", "abort")


def spec_of_any_version(document: Mapping[str, Any]) -> tuple[RolloutSpec, Mapping[str, Any] | None]:
    """Returns what was asked for; and, where another version of Slipway wrote it, its policy as it stands there.

    Args:
        document: spec.json as plain data.

    Raises:
        ValueError: It is no spec of a rollout.
    """
    try:
        return RolloutSpec.model_validate(document), None
    except ValueError:
        policy = document.get("policy", {})
        if not isinstance(policy, Mapping) or not isinstance(policy.get("steps", []), Sequence):
            raise
        known = {name: document[name] for name in ("id", "model", "candidates", "stable") if name in document}
        return RolloutSpec.model_validate(known), policy


def summary_of(
    spec: RolloutSpec, content: Mapping[str, Any] | None, written: Mapping[str, Any] | None = None
) -> RolloutSummary:
    """Returns the line of the list.

    Args:
        spec: What was asked for.
        content: state.json as plain data, None before a controller took the rollout up.
        written: The policy as another version of Slipway wrote it, where that cannot be read as one of this version.
    """
    state: Mapping[str, Any] = {} if content is None else content["state"]
    phase = state.get("phase", "Pending")
    terminal = phase in TERMINAL
    arms = tuple(target.arm for target in spec.candidates)
    weights = state.get("weights", {})
    return RolloutSummary(
        rollout=spec.id,
        candidates=arms,
        stable=None if spec.stable is None else spec.stable.arm,
        phase=phase,
        step=int(state["step"]) + 1 if "step" in state else None,
        steps=len(spec.policy.steps if written is None else written.get("steps", ())),
        weight=sum(int(weights.get(arm, 0)) for arm in arms),
        started=state.get("started"),
        ended=state.get("phase_since") if terminal else None,
        reason=state.get("reason", ""),
        alarm=state.get("alarm", ""),
        terminal=terminal,
    )


def unreadable(rollout: str, error: ArtifactError) -> RolloutSummary:
    """Returns the line of a rollout whose files cannot be read; the others must not suffer for it."""
    return RolloutSummary(
        rollout=rollout,
        candidates=(),
        stable=None,
        phase="Unreadable",
        step=None,
        steps=0,
        weight=0,
        started=None,
        ended=None,
        reason=str(error),
        alarm="",
        terminal=True,
    )


def detail_of(
    spec: RolloutSpec,
    content: Mapping[str, Any] | None,
    *,
    served: bool,
    pending: Sequence[Command],
    waits_for: str | None,
    read_only: bool,
    written: Mapping[str, Any] | None = None,
    last_of_dropped: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Returns everything about one rollout but its history.

    Args:
        spec: What was asked for.
        content: state.json as plain data, None before a controller took the rollout up.
        served: Whether anything runs it.
        pending: Commands that were given and not taken up yet.
        waits_for: Id of the rollout that has to end before this one begins.
        read_only: Whether no command is offered.
        written: As for `summary_of`.
        last_of_dropped: The last verdicts on candidates that are no longer in it, which the state does not hold.
    """
    state: Mapping[str, Any] = {} if content is None else content["state"]
    summary = summary_of(spec, content, written)
    verdicts = [
        {
            **verdict,
            "meaning": OUTCOME_MEANINGS.get(verdict["outcome"], ""),
            "requirement_meaning": REQUIREMENT_MEANINGS.get(verdict["requirement"], ""),
        }
        for verdict in (*state.get("verdicts", ()), *last_of_dropped)
    ]
    return {
        **summary.to_dict(),
        "model": spec.model,
        "versions": {target.arm: target.version for target in (*spec.candidates, *filter(None, [spec.stable]))},
        "weights": dict(state.get("weights", {})),
        "weights_confirmed": dict(state.get("weights_confirmed", {})),
        "in_force": {} if content is None else dict(content.get("in_force", {})),
        "resources": {} if content is None else per_answer(content.get("resources", {})),
        "mirrors": dict(state.get("mirrors", {})),
        "dropped": dict(state.get("dropped", {})),
        "phase_since": state.get("phase_since"),
        "step_since": state.get("step_since"),
        "verdicts": verdicts,
        "guardrails": _guardrails(spec.policy.guardrails if written is None else _known_guardrails(written)),
        "policy": _policy(spec.policy) if written is None else {"steps": [], **written},
        "meanings": {"verdicts": OUTCOME_MEANINGS, "requirements": REQUIREMENT_MEANINGS},
        "served": served,
        "waits_for": waits_for,
        "pending": [{"kind": command.kind, "by": command.by} for command in pending],
        "unreadable": why_no_commands(state, written),
        "commands": [] if read_only or written is not None else list(available_commands(state, spec.policy)),
        "read_only": read_only,
    }


def available_commands(state: Mapping[str, Any], policy: RolloutPolicy) -> tuple[CommandKind, ...]:
    """Returns the commands that would change something where the rollout stands, as the core itself says.

    Args:
        state: The core's state as plain data; empty before a controller took the rollout up.
        policy: Its policy.
    """
    if not state:
        return _BEFORE_STATE
    try:
        before: State = from_plain(State, state)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()  # Written by another version of Slipway: what a command would do there is not known.
    found = tuple(kind for kind in COMMANDS if _has_effect(before, kind, policy))
    return tuple(kind for kind in found if not (kind == "resume" and "approve" in found))


def why_no_commands(state: Mapping[str, Any], written: Mapping[str, Any] | None = None) -> str | None:
    """Returns why no command can be offered for a rollout of another format, in words; None where there is no reason.

    Args:
        state: The core's state as plain data; empty before a controller took the rollout up.
        written: As for `summary_of`.
    """
    if written is None and not state:
        return None
    try:
        if written is None:
            from_plain(State, state)
            return None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    shown = (
        "Another version of Slipway wrote this rollout. What it says is shown, but what a command would do is not "
        "known, so there are no buttons."
    )
    if state.get("phase") in TERMINAL:
        return f"{shown} It has ended; start the version again with slipway rollout start."
    return f"{shown} End it with the version that began it, or move its folder away and start the rollout anew."


def _has_effect(before: State, kind: CommandKind, policy: RolloutPolicy) -> bool:
    now = before.last_now
    asked = Observations(at=now, commands=(Command(id="asked by the page", kind=kind),))
    after, _ = take_commands(before, asked, policy, now)
    return replace(after, handled=before.handled) != before


def _known_guardrails(written: Mapping[str, Any]) -> list[Guardrail]:
    """Returns the guardrails of another version's policy that this one understands, by the fields that it knows."""
    found = []
    for document in written.get("guardrails", ()):
        with contextlib.suppress(ValueError, AttributeError):
            known = {name: value for name, value in document.items() if name in Guardrail.model_fields}
            found.append(Guardrail.model_validate(known))
    return found


def _guardrails(guardrails: Sequence[Guardrail]) -> dict[str, dict[str, Any]]:
    return {
        guardrail.name: {
            "kind": guardrail.kind,
            "higher_is_better": guardrail.higher_is_better,
            "dry_run": guardrail.dry_run,
            "margin": guardrail.margin.model_dump(exclude_none=True),
            "limit": guardrail.at_most if guardrail.at_least is None else guardrail.at_least,
            "hard_limit": None if guardrail.hard_limit is None else guardrail.hard_limit.rate,
        }
        for guardrail in guardrails
    }


def _policy(policy: RolloutPolicy) -> dict[str, Any]:
    document = policy.model_dump(mode="json", exclude_none=True)
    return {name: value for name, value in document.items() if name != "guardrails"}
