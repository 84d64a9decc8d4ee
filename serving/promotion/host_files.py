"""What repositories that are reached by their host's API have in common: no working tree, no lock, no git program."""

from __future__ import annotations

import contextlib
import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from slipway.serving.promotion.repository import Remote


@dataclass(frozen=True)
class Pending:
    """A commit that was made: on top of which one, and what its files held before and hold now."""

    parent: str
    before: Mapping[str, str | None]
    after: Mapping[str, str]
    message: str


class HostRepository(ABC):
    """The part of `PromotionRepository` that is the same for every host.

    Args:
        page: The repository's page.
        committer: Who commits, as `Name <address>`; the host says who the token's owner is.
    """

    def __init__(self, page: str, committer: str) -> None:
        self._page = page
        self._committer = committer
        self._pending: dict[str, Pending] = {}

    @property
    def shown_remote(self) -> str:
        """See `PromotionRepository`."""
        return self._page

    def fetch(self, remote: Remote, branches: Sequence[str]) -> None:  # noqa: B027 - nothing to do, for every host
        """See `PromotionRepository`. Files are read from the host, one by one, when they are asked for."""

    @abstractmethod
    def read(self, commit: str, path: str) -> str | None:
        """See `PromotionRepository`."""

    def read_all(self, commit: str, paths: Sequence[str]) -> dict[str, str | None]:
        """See `PromotionRepository`."""
        return {path: self.read(commit, path) for path in paths}

    def diff(self, before: str, after: str, path: str) -> str:
        """See `PromotionRepository`. Known for commits that were made here, on top of `before`."""
        pending = self._pending.get(after)
        if pending is None or pending.parent != before:
            return ""
        lines: list[str] = []
        for name in sorted(pending.after):
            if PurePosixPath(name).is_relative_to(path):
                old = (pending.before[name] or "").splitlines(keepends=True)
                new = pending.after[name].splitlines(keepends=True)
                lines += difflib.unified_diff(old, new, f"a/{name}", f"b/{name}")
        return "".join(lines)

    def changes(self, path: str) -> list[str]:  # noqa: ARG002
        """See `PromotionRepository`. There is no working tree."""
        return []

    def identity(self) -> str:
        """See `PromotionRepository`."""
        return self._committer

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """See `PromotionRepository`. The host lets one of several win."""
        yield

    def _remember(self, commit: str, parent: str, files: Mapping[str, str], message: str) -> None:
        before = self.read_all(parent, list(files))
        self._pending[commit] = Pending(parent, before, dict(files), message)
