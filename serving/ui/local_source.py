"""The rollouts of one project on this machine."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slipway.contracts.errors import ArtifactError, RolloutError, UsageError
from slipway.contracts.rollout import CommandKind, RolloutSpec
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.local.observed import read_observed
from slipway.serving.rollout.core.observations import Command
from slipway.serving.rollout.event_stream import Decision, HistoryReader, read_plain_state
from slipway.serving.rollout.store import RolloutFolder
from slipway.serving.ui.detail import available_commands, detail_of, spec_of_any_version, summary_of, unreadable
from slipway.serving.ui.source import RolloutSummary

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_HISTORIES = 8
"""Rollouts whose decisions are kept in memory, the ones that were looked at last."""

Stamp = tuple[int, int, int]


class LocalSource:
    """Reads the store's files, each again only after it changed, and leaves commands for the controller.

    Args:
        directory: Folder of the project file.
        retry: Starts a rollout of a version again and returns its id; gets the rollout that ended.
        read_only: Refuse every command.
    """

    def __init__(
        self, directory: Path, *, retry: Callable[[RolloutSpec], str] | None = None, read_only: bool = False
    ) -> None:
        self._directory = directory
        self._root = PlaneLayout(directory).rollouts
        self._retry = retry
        self.read_only = read_only
        self._lock = threading.Lock()
        self._specs: dict[str, tuple[RolloutSpec, Mapping[str, Any] | None]] = {}
        self._summaries: dict[str, tuple[Stamp | None, RolloutSummary]] = {}
        self._histories: OrderedDict[str, tuple[HistoryReader, list[Decision]]] = OrderedDict()

    @property
    def name(self) -> str:
        """The project's folder."""
        return self._directory.resolve().name

    def list(self) -> Sequence[RolloutSummary]:
        """Returns every rollout, newest first."""
        names = sorted(self._names(), reverse=True)
        with self._lock:
            for gone in set(self._summaries) - set(names):
                del self._summaries[gone]
            return [self._summary(name) for name in names]

    def read(self, rollout: str) -> dict[str, Any]:
        """Returns one rollout."""
        folder = self._folder(rollout)
        spec, written = self._spec(folder)
        content = read_plain_state(folder)
        handled = set() if content is None else set(content["state"].get("handled", ()))
        summary = summary_of(spec, content, written)
        return detail_of(
            spec,
            content,
            served=read_observed(self._directory).is_fresh(),
            pending=[command for command in _commands(folder) if command.id not in handled],
            waits_for=None if summary.terminal else self._before(rollout),
            read_only=self.read_only,
            written=written,
            last_of_dropped=self._last_of_dropped(rollout, content),
        )

    def _last_of_dropped(self, rollout: str, content: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
        """Returns the last verdicts on each candidate that was dropped and is not judged any more."""
        state = {} if content is None else content["state"]
        judged = {verdict["arm"] for verdict in state.get("verdicts", ())}
        dropped = set(state.get("dropped", {})) - judged
        if not dropped:
            return ()
        last = {
            (verdict["arm"], verdict["guardrail"]): verdict
            for decision in self.history(rollout)
            for verdict in decision.guardrails
            if verdict["arm"] in dropped
        }
        return [
            {name: value for name, value in verdict.items() if name not in ("readings", "queries")}
            for verdict in last.values()
        ]

    def history(self, rollout: str) -> Sequence[Decision]:
        """Returns its decisions, oldest first."""
        folder = self._folder(rollout)
        with self._lock:
            if rollout not in self._histories:
                self._histories[rollout] = (HistoryReader(folder), [])
            reader, decisions = self._histories[rollout]
            self._histories.move_to_end(rollout)
            while len(self._histories) > _HISTORIES:
                self._histories.popitem(last=False)
            decisions.extend(reader.new())
            return tuple(decisions)

    def command(self, rollout: str, kind: CommandKind, by: str) -> str:
        """Gives a command; a retry is a rollout of its own."""
        folder = self._folder(rollout)
        spec, written = self._spec(folder)
        content = read_plain_state(folder)
        state = {} if content is None else content["state"]
        if written is not None or kind not in available_commands(state, spec.policy):
            raise RolloutError(
                f"{kind} has no effect in phase {state.get('phase', 'Pending')}",
                where=rollout,
                remedy="Look at where the rollout stands now; it has moved on since.",
            )
        if kind != "retry":
            folder.give(kind, by)
            return rollout
        if self._retry is None:
            raise RolloutError("a version cannot be tried again from here", where=rollout)
        return self._retry(spec)

    def _names(self) -> Sequence[str]:
        try:
            return [path.name for path in self._root.iterdir() if _ID.fullmatch(path.name) and path.is_dir()]
        except FileNotFoundError:
            return []

    def _before(self, rollout: str) -> str | None:
        """Returns the oldest rollout that has not ended, where that is another one: it is driven first."""
        under_way = [summary.rollout for summary in self.list() if not summary.terminal]
        return under_way[-1] if under_way and under_way[-1] != rollout else None

    def _summary(self, name: str) -> RolloutSummary:
        stamp = _stamp(self._root / name / "state.json")
        known = self._summaries.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        folder = RolloutFolder(self._root / name)
        try:
            spec, written = self._spec(folder)
            summary = summary_of(spec, read_plain_state(folder), written)
        except ArtifactError as error:
            summary = unreadable(name, error)
        self._summaries[name] = (stamp, summary)
        return summary

    def _spec(self, folder: RolloutFolder) -> tuple[RolloutSpec, Mapping[str, Any] | None]:
        if folder.id not in self._specs:
            path = folder.path / "spec.json"
            try:
                self._specs[folder.id] = spec_of_any_version(json.loads(path.read_bytes()))
            except (OSError, ValueError, AttributeError) as error:
                raise ArtifactError("the rollout's spec cannot be read", where=str(path)) from error
        return self._specs[folder.id]

    def _folder(self, rollout: str) -> RolloutFolder:
        path = self._root / rollout
        if not _ID.fullmatch(rollout) or not path.is_dir():
            raise UsageError(
                f"there is no rollout {rollout!r}",
                where=str(self._root),
                remedy="Choose one from the list of rollouts.",
            )
        return RolloutFolder(path)


def _commands(folder: RolloutFolder) -> tuple[Command, ...]:
    try:
        return folder.commands()
    except FileNotFoundError:
        return ()  # The controller has cleared one between listing and reading.


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
