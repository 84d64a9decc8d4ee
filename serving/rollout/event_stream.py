"""The decisions of a rollout as a stream: each with its readings, bounds, samples, rule and resolved queries.

`slipway rollout explain`, `slipway rollout history --follow` and the page all read a history through this module. A
line counts from the moment on at which the state names it: one that a killed controller wrote last, and that the next
one cuts off again, is never shown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from slipway.contracts.errors import ArtifactError, ServiceError
from slipway.contracts.rollout import RolloutSpec
from slipway.serving.rollout.core.types import TERMINAL
from slipway.serving.rollout.resources import per_answer
from slipway.serving.rollout.store import RolloutFolder

Line = Mapping[str, Any]

OUTCOME_MEANINGS = {
    "PASS": "The whole interval lies inside the tolerated margin: proven not to be worse than you accept.",
    "FAIL": "There is evidence of harm beyond the margin or of a broken hard limit: the version is taken back at once.",
    "INCONCLUSIVE": "Neither harm nor its absence is proven yet. It goes on only where the step requires no more than "
    "noHarm; it is never read as passed.",
    "ERROR": "No usable reading: Prometheus is away, numbers cannot be true, or traffic is not split as set. The "
    "rollout holds, and after the policy's waiting time does what the policy says.",
}
"""What each verdict means, in words."""

REQUIREMENT_MEANINGS = {
    "noHarm": "enough fresh samples at this step, and no evidence of harm",
    "proven": "enough fresh samples at this step, and the interval inside the margin",
    "better": "enough fresh samples at this step, and proven to be an improvement of the least lift",
}
"""What a step asks of a guardrail, in words."""


@dataclass(frozen=True)
class Decision:
    """What one look at a rollout came to.

    Args:
        sequence: Number of the look in the history, from 1.
        at: Unix seconds.
        phase: Phase after the decision; "" in histories that do not say.
        step: Step after the decision, from 1; None before the history says.
        weights: Percent of traffic by arm, as decided.
        rule: Why, in one sentence.
        events: {"kind", "message"} of each change of phase or step, command and alarm.
        evidence: Sequence of the look whose readings it rests on: its own, the last one before, or None.
        guardrails: The verdicts of this look, each with "readings" and "queries" by arm, and its "meaning".
        in_force: Percent of traffic by arm that came into force at this look; empty where nothing changed.
        resources: What an answer of each arm costs, since the first traffic; see `resources.per_answer`.
    """

    rollout: str
    sequence: int
    at: float
    phase: str
    step: int | None
    weights: Mapping[str, int]
    rule: str
    events: tuple[Mapping[str, str], ...]
    evidence: int | None
    guardrails: tuple[Mapping[str, Any], ...] = field(default=())
    in_force: Mapping[str, int] = field(default_factory=dict)
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the decision as JSON-ready data."""
        return {"type": "decision", **asdict(self)}


def decisions_of(rollout: str, lines: Iterable[Line], after: Decision | None = None) -> Iterator[Decision]:
    """Groups the lines of a history by look.

    Args:
        rollout: Id of the rollout.
        lines: Lines of the history in order; those of one look stand together.
        after: The last decision before these lines.
    """
    group: list[Line] = []
    last = after
    for line in lines:
        if group and line["at"] != group[0]["at"]:
            last = _decision(rollout, group, last)
            yield last
            group = []
        group.append(line)
    if group:
        yield _decision(rollout, group, last)


def _decision(rollout: str, group: Sequence[Line], last: Decision | None) -> Decision:
    sequence = 1 if last is None else last.sequence + 1
    look = next((line for line in group if line["type"] == "verdicts"), None)
    stood = next((line for line in (look, *group) if line is not None and "weights" in line), None)
    events = tuple(
        {"kind": str(line["kind"]), "message": str(line["message"])} for line in group if line["type"] == "event"
    )
    rule = "" if look is None else str(look.get("rule", ""))
    step = None if last is None else last.step
    return Decision(
        rollout=rollout,
        sequence=sequence,
        at=float(group[0]["at"]),
        phase=str(stood.get("phase", "")) if stood else "",
        step=int(stood["step"]) + 1 if stood else step,
        weights=dict(stood["weights"]) if stood else ({} if last is None else last.weights),
        rule=rule or (events[-1]["message"] if events else ""),
        events=events,
        evidence=sequence if look is not None else (None if last is None else last.evidence),
        guardrails=() if look is None else tuple(_guardrails(look)),
        in_force=next((dict(line["in_force"]) for line in group if "in_force" in line), {}),
        resources={} if look is None else per_answer(look.get("resources", {})),
    )


def _guardrails(look: Line) -> Iterator[dict[str, Any]]:
    for verdict in look["verdicts"]:
        # Of several latency objectives, the one that decided is shown.
        part = verdict.get("part")
        name = verdict["guardrail"] if part is None else f"{verdict['guardrail']}@{part:g}"
        readings = {
            reading["arm"]: {key: value for key, value in reading.items() if key not in ("guardrail", "arm")}
            for reading in look.get("readings", ())
            if reading["guardrail"] == name
        }
        yield {
            **verdict,
            "meaning": OUTCOME_MEANINGS.get(verdict["outcome"], ""),
            "requirement_meaning": REQUIREMENT_MEANINGS.get(verdict["requirement"], ""),
            "readings": readings,
            "queries": dict(look.get("queries", {}).get(name, {})),
        }


class Told(Protocol):
    """A rollout whose history can be read, wherever it is kept."""

    @property
    def id(self) -> str: ...

    @property
    def spec(self) -> RolloutSpec: ...

    def plain_state(self) -> dict[str, Any] | None:
        """Returns the record as plain data; None before there is one."""

    def lines_after(self, mark: float) -> tuple[list[dict[str, Any]], float]:
        """Returns the lines of the history after a mark (0 is its beginning) that are certain, and the next mark."""


@dataclass(frozen=True)
class ToldByFolder:
    """A rollout on disk."""

    folder: RolloutFolder

    @property
    def id(self) -> str:
        """Name of the rollout."""
        return self.folder.id

    @property
    def spec(self) -> RolloutSpec:
        """What was asked for."""
        return self.folder.spec

    def plain_state(self) -> dict[str, Any] | None:
        """Returns state.json as plain data; None before there is one."""
        return read_plain_state(self.folder)

    def lines_after(self, mark: float) -> tuple[list[dict[str, Any]], float]:
        """Returns the lines after a number of bytes, and how many bytes are certain.

        Raises:
            ArtifactError: State or history cannot be read.
        """
        state = read_plain_state(self.folder)
        committed = 0 if state is None else int(state["history_bytes"])
        if committed <= mark:
            return [], mark
        path = self.folder.path / "history.jsonl"
        try:
            with path.open("rb") as handle:
                handle.seek(int(mark))
                content = handle.read(committed - int(mark))
            return [json.loads(line) for line in content.splitlines()], committed
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"the rollout's history cannot be read ({error})",
                where=str(path),
                remedy="It was altered; the state beside it still says where the rollout stands.",
            ) from error


class HistoryReader:
    """Reads the history of one rollout as it grows; each decision comes once, and only when it is certain.

    Args:
        rollout: The rollout.
    """

    def __init__(self, rollout: RolloutFolder | Told) -> None:
        self._told = _told(rollout)
        self._mark = 0.0
        self._last: Decision | None = None

    def new(self) -> list[Decision]:
        """Returns the decisions since the last call.

        Raises:
            ArtifactError: State or history cannot be read.
        """
        lines, self._mark = self._told.lines_after(self._mark)
        found = list(decisions_of(self._told.id, lines, self._last))
        self._last = found[-1] if found else self._last
        return found


def _told(rollout: RolloutFolder | Told) -> Told:
    return ToldByFolder(rollout) if isinstance(rollout, RolloutFolder) else rollout


def read_plain_state(folder: RolloutFolder) -> dict[str, Any] | None:
    """Returns state.json as plain data, also where another version of Slipway wrote it; None before there is one.

    Raises:
        ArtifactError: It is no state of a rollout.
    """
    path = folder.path / "state.json"
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content["state"]["phase"], str) or not isinstance(content["history_bytes"], int):
            raise TypeError("phase and history_bytes are of another type")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"the rollout's state cannot be read ({type(error).__name__}: {error})",
            where=str(path),
            remedy="It was altered; move the folder away and start the rollout anew.",
        ) from error
    found: dict[str, Any] = content
    return found


def end_of(rollout: RolloutFolder | Told) -> dict[str, Any] | None:
    """Returns the stream's last message, {"type": "end", "phase", "reason", "at"}, or None while a rollout goes on.

    Raises:
        ArtifactError: The state cannot be read.
    """
    told = _told(rollout)
    content = told.plain_state()
    if content is None or content["state"]["phase"] not in TERMINAL:
        return None
    state = content["state"]
    return {
        "type": "end",
        "rollout": told.id,
        "at": state.get("phase_since"),
        "phase": state["phase"],
        "reason": state.get("reason", ""),
    }


def follow(
    rollout: RolloutFolder | Told,
    served: Callable[[], bool],
    *,
    patience: float = 30.0,
    interval: float = 0.2,
    silence: tuple[str, str] = (
        "the serving plane is down",
        "Start it with `slipway up`; the rollout goes on where it was.",
    ),
) -> Iterator[dict[str, Any]]:
    """Yields every decision, those made so far first, and at the end of the rollout the message of its end.

    Args:
        rollout: The rollout.
        served: Says whether anything runs the rollout.
        patience: Seconds for which nothing may run it.
        interval: Seconds between two looks at its files.
        silence: What it means that nothing runs it, and what to do.

    Raises:
        ArtifactError: State or history cannot be read.
        ServiceError: Nothing has run the rollout for longer than `patience`.
    """
    reader = HistoryReader(rollout)
    seen = time.monotonic()
    while True:
        # Read before the decisions: then none of them can be missing when the end is told.
        end = end_of(rollout)
        yield from (decision.to_dict() for decision in reader.new())
        if end is not None:
            yield end
            return
        if served():
            seen = time.monotonic()
        elif time.monotonic() - seen > patience:
            raise ServiceError(f"nothing runs the rollout: {silence[0]}", where=rollout.id, remedy=silence[1])
        time.sleep(interval)


def explanation_of(rollout: RolloutFolder | Told) -> dict[str, Any]:
    """Returns the whole rollout explained: where it stands, what words mean, and every decision, oldest first.

    Raises:
        ArtifactError: Spec, state or history cannot be read.
    """
    told = _told(rollout)
    spec = told.spec
    content = told.plain_state()
    state: Mapping[str, Any] = {} if content is None else content["state"]
    return {
        "rollout": told.id,
        "model": spec.model,
        "candidates": [target.model_dump() for target in spec.candidates],
        "stable": None if spec.stable is None else spec.stable.model_dump(),
        "phase": state.get("phase", "Pending"),
        "step": int(state.get("step", 0)) + 1,
        "steps": len(spec.policy.steps),
        "weights": dict(state.get("weights", {})),
        "reason": state.get("reason", ""),
        "alarm": state.get("alarm", ""),
        "in_force": {} if content is None else dict(content.get("in_force", {})),
        "resources": {} if content is None else per_answer(content.get("resources", {})),
        "meanings": {"verdicts": OUTCOME_MEANINGS, "requirements": REQUIREMENT_MEANINGS},
        "decisions": [decision.to_dict() for decision in HistoryReader(told).new()],
    }
