"""What promotion asks of a repository, however it is reached: by the git program, or by the API of its host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


class BranchMovedError(Exception):
    """The remote's branch is not where it was when it was looked at."""


@dataclass(frozen=True)
class Remote:
    """What a remote holds: its main branch, and the commits of the branches that were asked for."""

    main: str | None
    branches: Mapping[str, str]


class PromotionRepository(Protocol):
    """A repository whose remote gets proposals. Methods raise ServiceError where it refuses or does not answer."""

    @property
    def shown_remote(self) -> str:
        """The remote as it may be printed: without credentials."""

    def look(self, *patterns: str) -> Remote:
        """Asks for the main branch, and for branches by name or by `prefix*`."""

    def fetch(self, remote: Remote, branches: Sequence[str]) -> None:
        """Makes the commits of branches readable; raises BranchMovedError where one is gone."""

    def read(self, commit: str, path: str) -> str | None:
        """Returns a file of a commit, or None if it has none."""

    def read_all(self, commit: str, paths: Sequence[str]) -> dict[str, str | None]:
        """Returns files of a commit by path, None where it has none."""

    def commit(self, parent: str, files: Mapping[str, str], message: str) -> str:
        """Makes a commit on top of `parent` in which `files` have new content; nobody sees it before the push."""

    def push(self, commit: str, branch: str, *, expected: str | None) -> str:
        """Makes the remote's branch point at a commit, and returns which: a host may make it only now.

        Raises:
            BranchMovedError: The branch is not at `expected` (None: it exists).
        """

    def diff(self, before: str, after: str, path: str) -> str:
        """Returns the difference of two commits below a path, or nothing where that is not known."""

    def changes(self, path: str) -> list[str]:
        """Returns what a working tree has below a path that is not committed."""

    def identity(self) -> str:
        """Returns who commits, as `Name <address>`."""

    def alone(self) -> AbstractContextManager[None]:
        """Lets one promotion of this repository run at a time on this machine."""
