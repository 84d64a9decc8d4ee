"""Rollouts on disk: spec, state and history of each, and the commands that people give.

    <root>/<id>/spec.json         what was asked for; never changes
    <root>/<id>/arms.json         how to run each arm on this machine
    <root>/<id>/state.json        state of the core, last reading, length of the history; replaced in one rename
    <root>/<id>/history.jsonl     events and verdicts, one line each
    <root>/<id>/commands/*.json   commands that were not handled yet

The state names the length of the history that belongs to it, so that a controller that was killed between the two
writes cuts off what the state does not know, and makes the same decision again.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway.contracts.errors import ArtifactError, UsageError
from slipway.contracts.files import write_atomically, write_json
from slipway.contracts.rollout import CommandKind, RolloutSpec
from slipway.serving.local.desired import Arm
from slipway.serving.rollout.core.observations import Command, SmokeTestResult
from slipway.serving.rollout.core.serialization import from_plain, to_plain
from slipway.serving.rollout.core.types import TERMINAL, State
from slipway.serving.rollout.readings import Snapshot


@dataclass
class Record:
    """What a controller must remember of a rollout between two ticks.

    `resources` is what each arm used since the first traffic, `in_force` the weights that were seen last; both are
    shown and decide nothing.
    """

    state: State
    snapshot: Snapshot = field(default_factory=Snapshot)
    window_end: float | None = None
    smoke_test: SmokeTestResult | None = None
    history_bytes: int = 0
    last_verdicts_at: float = 0.0
    readings: list[dict[str, Any]] = field(default_factory=list)
    resources: dict[str, dict[str, float]] = field(default_factory=dict)
    in_force: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as JSON-ready data."""
        return {
            "state": to_plain(self.state),
            "snapshot": self.snapshot.to_dict(),
            "window_end": self.window_end,
            "smoke_test": to_plain(self.smoke_test),
            "history_bytes": self.history_bytes,
            "last_verdicts_at": self.last_verdicts_at,
            "readings": self.readings,
            "resources": self.resources,
            "in_force": self.in_force,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Record:
        """Reads what `to_dict` gave."""
        smoke_test = content["smoke_test"]
        return cls(
            state=from_plain(State, content["state"]),
            snapshot=Snapshot.from_dict(content["snapshot"]),
            window_end=content["window_end"],
            smoke_test=None if smoke_test is None else from_plain(SmokeTestResult, smoke_test),
            history_bytes=int(content["history_bytes"]),
            last_verdicts_at=float(content["last_verdicts_at"]),
            readings=[dict(reading) for reading in content.get("readings", ())],
            resources={arm: dict(sums) for arm, sums in content.get("resources", {}).items()},
            in_force=dict(content.get("in_force", {})),
        )


class RolloutFolder:
    """One rollout on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        """Name of the rollout: sorts by the time of its start."""
        return self.path.name

    @property
    def spec(self) -> RolloutSpec:
        """What was asked for.

        Raises:
            ArtifactError: The file is absent or is no rollout.
        """
        try:
            return RolloutSpec.model_validate_json((self.path / "spec.json").read_bytes())
        except (OSError, ValueError) as error:
            raise ArtifactError("the rollout's spec cannot be read", where=str(self.path)) from error

    @property
    def arms(self) -> dict[str, Arm]:
        """How to run each arm of the rollout on this machine."""
        content = json.loads((self.path / "arms.json").read_text())
        return {name: Arm.model_validate(arm) for name, arm in content.items()}

    def read(self) -> Record | None:
        """Returns the record, or None when no controller has taken the rollout up yet.

        Raises:
            ArtifactError: The state is altered or of another version of Slipway.
        """
        try:
            return Record.from_dict(json.loads((self.path / "state.json").read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"the rollout's state cannot be read ({error})",
                where=str(self.path / "state.json"),
                remedy="It is of another version of Slipway or was altered; move the folder away and start anew.",
            ) from error

    def has_ended(self) -> bool:
        """Returns whether nothing is left to do, also for a rollout that ended under another version of Slipway.

        Raises:
            ArtifactError: The state cannot be read and does not say that it has ended.
        """
        try:
            record = self.read()
        except ArtifactError:
            if self._phase_as_text() in TERMINAL:
                return True
            raise
        return record is not None and record.state.terminal

    def _phase_as_text(self) -> str | None:
        try:
            return str(json.loads((self.path / "state.json").read_bytes())["state"]["phase"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, record: Record, lines: Sequence[Mapping[str, Any]] = ()) -> None:
        """Appends lines to the history, then replaces the state that knows of them."""
        history = self.path / "history.jsonl"
        with history.open("ab") as handle:
            handle.truncate(record.history_bytes)
            handle.seek(record.history_bytes)
            for line in lines:
                handle.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            handle.flush()
            record.history_bytes = handle.tell()
        write_atomically(self.path / "state.json", json.dumps(record.to_dict(), separators=(",", ":")))

    def history(self) -> list[dict[str, Any]]:
        """Returns the history, oldest first; a line that is being written is left out."""
        try:
            text = (self.path / "history.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def give(self, kind: CommandKind, by: str) -> Command:
        """Leaves a command for the controller; it takes effect once."""
        command = Command(id=f"{time.time_ns()}-{secrets.token_hex(4)}", kind=kind, by=by)
        write_json(self.path / "commands" / f"{command.id}.json", to_plain(command))
        return command

    def commands(self) -> tuple[Command, ...]:
        """Returns the commands that were not cleared yet, in the order in which they were given."""
        files = sorted((self.path / "commands").glob("*.json"))
        return tuple(from_plain(Command, json.loads(file.read_text())) for file in files)

    def clear(self, handled: Sequence[str]) -> None:
        """Removes commands that the state says were handled."""
        for command in handled:
            (self.path / "commands" / f"{command}.json").unlink(missing_ok=True)


class RolloutStore:
    """All rollouts of a project on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ended: dict[str, int] = {}

    def create(self, spec: RolloutSpec, arms: Mapping[str, Arm]) -> RolloutFolder:
        """Hands a rollout to the controller: the folder appears whole, in one rename."""
        draft = self.root / f".{spec.id}.partial"
        draft.mkdir(parents=True, exist_ok=True)
        write_atomically(draft / "spec.json", spec.model_dump_json(indent=2) + "\n")
        write_json(draft / "arms.json", {name: arm.model_dump(mode="json") for name, arm in arms.items()})
        draft.rename(self.root / spec.id)
        return RolloutFolder(self.root / spec.id)

    def all(self) -> list[RolloutFolder]:
        """Returns every rollout, oldest first."""
        return list(self._folders())

    def open(self) -> list[RolloutFolder]:
        """Returns the rollouts that have not ended, oldest first."""
        return [folder for folder in self._folders() if not self._has_ended(folder)]

    def find(self, rollout_id: str | None) -> RolloutFolder:
        """Returns the rollout of that id, or the newest that has started or waits.

        Raises:
            UsageError: There is none.
        """
        folders = self.all()
        if rollout_id is None and folders:
            return folders[-1]
        for folder in folders:
            if folder.id == rollout_id:
                return folder
        what = "there has been no rollout here" if rollout_id is None else f"there is no rollout {rollout_id!r}"
        raise UsageError(what, where=str(self.root), remedy="Start one with: slipway rollout start")

    def went_back(self, model: str) -> dict[str, str]:
        """Returns {digest: rollout id} of the versions of a model whose last rollout went back."""
        result: dict[str, str] = {}
        for folder in self._folders():
            try:
                record = folder.read()
            except ArtifactError:
                if folder.has_ended():
                    continue  # It ended under another version of Slipway, and says nothing that can be relied upon.
                raise
            if record is None or folder.spec.model != model:
                continue
            state = record.state
            if state.phase == "Promoted":
                result.pop(state.candidate.identity, None)
            for target in state.candidates:
                # A version that only lost to a better one, or that a person took back, may come again.
                if target.identity in state.went_back and not state.aborted:
                    result[target.identity] = folder.id
        return result

    def _has_ended(self, folder: RolloutFolder) -> bool:
        """Reads a state that has ended once: a controller asks twice a second, of all rollouts there ever were."""
        try:
            changed = (folder.path / "state.json").stat().st_mtime_ns
        except FileNotFoundError:
            return False
        if self._ended.get(folder.id) == changed:
            return True
        if not folder.has_ended():
            return False
        self._ended[folder.id] = changed
        return True

    def _folders(self) -> Iterator[RolloutFolder]:
        if not self.root.is_dir():
            return
        for path in sorted(self.root.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield RolloutFolder(path)


def new_rollout_id(arm: str) -> str:
    """Returns a name that sorts by time and says what is rolled out: 20261124-213000-films-v2."""
    moment = time.time()
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(moment))}-{int(moment % 1 * 1000):03d}-{arm}"
