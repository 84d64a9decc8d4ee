"""The status of a Rollout: what people read, and what the operator remembers between two looks.

The latter is one field, JSON in gzip in base64: evidence and readings mean nothing to a reader, and a few kilobytes of
it are written at every look at a rollout in motion.
"""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slipway.contracts.errors import ArtifactError
from slipway.contracts.rollout import ASSIGNMENT, RolloutPolicy
from slipway.serving.rollout.core.types import TERMINAL, Outcome, State
from slipway.serving.rollout.operator.observing import ClusterSight
from slipway.serving.rollout.store import Record

MOST_EVENTS, MOST_LOOKS = 40, 12
"""How many lines of the history are kept: changes, and looks with their readings."""
LONGEST_MESSAGE = 1000

AVAILABLE, PROGRESSING, ROUTED, METRICS, HEALTHY = (
    "Available",
    "Progressing",
    "TrafficSplit",
    "MetricsAvailable",
    "Healthy",
)
PREFLIGHT, VALID = "Preflight", "SpecValid"

_WORST_FIRST = (Outcome.FAIL, Outcome.ERROR, Outcome.INCONCLUSIVE, Outcome.PASS)


@dataclass(frozen=True)
class Condition:
    """One condition: named reason, and a sentence."""

    type: str
    status: bool | None
    reason: str
    message: str = ""

    def document(self, previous: Iterable[Mapping[str, Any]], generation: int, now: float) -> dict[str, Any]:
        """Returns it as the status holds it; the time of its last change is kept where nothing changed."""
        status = "Unknown" if self.status is None else str(self.status)
        old = next((one for one in previous if one.get("type") == self.type), None)
        kept = old is not None and old.get("status") == status and "lastTransitionTime" in old
        return {
            "type": self.type,
            "status": status,
            "reason": self.reason,
            "message": self.message[:LONGEST_MESSAGE],
            "observedGeneration": generation,
            "lastTransitionTime": old["lastTransitionTime"] if old is not None and kept else written(now),
        }


@dataclass
class Memory:
    """What the operator remembers of a Rollout.

    Args:
        record: The core's state and the last reading.
        lines: History with readings, newest last.
        policy: The last policy that was valid.
    """

    record: Record | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)
    policy: dict[str, Any] | None = None

    def encoded(self) -> str:
        """Returns it as text."""
        content = {
            "record": None if self.record is None else self.record.to_dict(),
            "lines": self.lines,
            "policy": self.policy,
        }
        packed = gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 6, mtime=0)
        return base64.b64encode(packed).decode()

    @classmethod
    def decoded(cls, text: str) -> Memory:
        """Reads what `encoded` gave; nothing from an empty text.

        Raises:
            ArtifactError: It was altered, or is of another version of Slipway.
        """
        if not text:
            return cls()
        try:
            content = json.loads(gzip.decompress(base64.b64decode(text)))
            record = content["record"]
            return cls(None if record is None else Record.from_dict(record), content["lines"], content["policy"])
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"status.record cannot be read ({type(error).__name__}: {error})",
                remedy="It was altered or is of another version of Slipway; clear the status to start anew.",
            ) from error

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Appends lines and drops the oldest beyond what is kept of each kind."""
        self.lines.extend(dict(line) for line in lines)
        for kind, most in (("event", MOST_EVENTS), ("verdicts", MOST_LOOKS)):
            own = [line for line in self.lines if line["type"] == kind]
            gone = {id(line) for line in own[: max(0, len(own) - most)]}
            self.lines = [line for line in self.lines if id(line) not in gone]


def readable(
    state: State, policy: RolloutPolicy, lines: Sequence[Mapping[str, Any]], sight: ClusterSight | None
) -> dict[str, Any]:
    """Returns the part of the status that is for people.

    Args:
        state: Of the core.
        policy: The policy in force.
        lines: History, newest last.
        sight: What was seen at this look.
    """
    document: dict[str, Any] = {
        "phase": state.phase.value,
        "step": f"{state.step + 1}/{len(policy.steps)}",
        "weight": state.weights.get(state.candidate.arm, 0),
        "verdict": _verdict(state),
        "reason": state.reason[:LONGEST_MESSAGE],
        "candidate": state.candidate.arm,
        "verdicts": [
            {
                "guardrail": verdict.guardrail,
                "arm": verdict.arm,
                "outcome": verdict.outcome.value,
                "requirement": verdict.requirement,
                "met": verdict.met,
                "measure": verdict.measure,
                "value": _written(verdict.value),
                "lower": _written(verdict.lower),
                "upper": _written(verdict.upper),
                "margin": _written(verdict.margin),
                "samples": verdict.samples,
                "stableSamples": verdict.stable_samples,
                "explanation": verdict.explanation,
            }
            for verdict in state.verdicts
        ],
        "history": [
            {
                "at": written(line["at"]),
                "kind": line["kind"],
                "message": str(line["message"])[:LONGEST_MESSAGE],
                "weights": dict(line.get("weights", {})),
            }
            for line in lines
            if line["type"] == "event"
        ],
    }
    # Left out where empty: applying an empty map over one with entries makes it null, which the schema refuses.
    if state.weights:
        document["weights"] = dict(state.weights)
    if sight is not None and sight.route.weights:
        document["actualWeights"] = dict(sight.route.weights)
    if state.alarm:
        document["alarm"] = state.alarm[:LONGEST_MESSAGE]
    if state.stable is not None:
        document["stable"] = state.stable.arm
    return document


def conditions_of(state: State, sight: ClusterSight | None) -> list[Condition]:
    """Returns what a rollout's state and the cluster say, as conditions."""
    conditions = [_progressing(state)]
    if state.alarm:
        conditions.append(Condition(HEALTHY, False, "Alarm", state.alarm))
    else:
        conditions.append(Condition(HEALTHY, True, "NoAlarm"))
    error = _reading_error(state)
    if error is not None:
        conditions.append(Condition(METRICS, False, "NoUsableReading", error))
    elif state.clocks or state.verdicts:
        conditions.append(Condition(METRICS, True, "Reading"))
    if sight is not None:
        conditions.append(Condition(ROUTED, sight.route.in_force, sight.route.reason, sight.route.message))
        conditions.append(_available(state, sight))
    return conditions


def _reading_error(state: State) -> str | None:
    """Returns why guardrails have no usable reading, or None where they have, or none is asked for yet."""
    judged = [verdict for verdict in state.verdicts if verdict.guardrail != ASSIGNMENT]
    wrong = (verdict.explanation for verdict in judged if verdict.outcome is Outcome.ERROR)
    return next(iter((*wrong, *(clock.error for clock in state.clocks.values() if clock.error))), None)


def _progressing(state: State) -> Condition:
    return Condition(PROGRESSING, state.phase not in TERMINAL, state.phase.value, state.reason)


def _available(state: State, sight: ClusterSight) -> Condition:
    serving = {arm: weight for arm, weight in (sight.route.weights or state.weights).items() if weight > 0}
    ready = [arm for arm in serving if arm in sight.arms and sight.arms[arm].ready > 0]
    if ready:
        return Condition(AVAILABLE, True, "Serving", f"{', '.join(sorted(ready))} answer.")
    problem = next((arm.problem for arm in sight.arms.values() if arm.problem), "")
    return Condition(AVAILABLE, False, "NothingServes", problem or "No version with traffic has a ready pod.")


def _verdict(state: State) -> str:
    outcomes = {verdict.outcome for verdict in state.verdicts if not verdict.dry_run}
    return next((outcome.value for outcome in _WORST_FIRST if outcome in outcomes), "")


def _written(value: float | None) -> str | None:
    return None if value is None else f"{value:.6g}"


def written(moment: float) -> str:
    """Returns Unix seconds as Kubernetes writes times."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
