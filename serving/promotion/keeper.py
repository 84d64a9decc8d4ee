"""Keeps Git true to what serves: proposes the revert of every Rollout that went back, beside the operator's own work.

    keeper = GitKeeper(functools.partial(propose_revert, repository="https://github.com/acme/models"))
    keeper.look(rollout)      # at every look at a Rollout; returns at once

What is done is not remembered beyond the process: an operator that takes over looks again, and finds the pull request.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from slipway.contracts.errors import SlipwayError
from slipway.contracts.rollout.resource import object_name
from slipway.serving.promotion.candidate import Outcome

log = logging.getLogger(__name__)

ROLLED_BACK = "RolledBack"
"""The phase in a Rollout's status after which Git names another version than the one that serves."""

_MOST_WAITING = 200
_ATTEMPTS = 4


class GitKeeper:
    """Proposes reverts in a thread of its own, once for each spec of a Rollout that went back.

    Args:
        propose: Opens the pull request: `propose_revert` with its repository.
        told: Receives the Rollout's `namespace/name` and a sentence for people.
        pause: Seconds before a second attempt; each further one waits twice as long.
    """

    def __init__(
        self,
        propose: Callable[..., Outcome],
        told: Callable[[str, str], None] = lambda name, text: log.info("%s: %s", name, text),
        *,
        pause: float = 30.0,
    ) -> None:
        self._propose = propose
        self._told = told
        self._pause = pause
        self._seen: dict[str, int] = {}
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_MOST_WAITING)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="git-keeper", daemon=True)
        self._thread.start()

    def look(self, rollout: Mapping[str, Any]) -> bool:
        """Takes a Rollout on if it went back and Git still names what went back; returns whether it did.

        Args:
            rollout: The object as the cluster holds it.
        """
        meta, status = rollout["metadata"], rollout.get("status") or {}
        arm = object_name(meta["name"], str(rollout["spec"]["model"]["version"]))
        if status.get("phase") != ROLLED_BACK or status.get("stable") in (None, arm):
            return False
        generation = int(meta.get("generation", 0))
        if self._seen.get(meta["uid"]) == generation:
            return False
        try:
            self._waiting.put_nowait(rollout)
        except queue.Full:
            return False  # the next look tries again
        self._seen[meta["uid"]] = generation
        return True

    def close(self, seconds: float = 5.0) -> None:
        """Ends the thread after what it has in hand."""
        self._ending.set()
        self._waiting.put(None)
        self._thread.join(seconds)

    def _work(self) -> None:
        while (rollout := self._waiting.get()) is not None and not self._ending.is_set():
            meta = rollout["metadata"]
            name = f"{meta['namespace']}/{meta['name']}"
            pause = self._pause
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    outcome = self._propose(rollout, reason=str(rollout["status"].get("reason") or "") or None)
                    self._told(name, _sentence(outcome))
                    break
                except SlipwayError as error:
                    log.warning("%s: Git could not be brought back (attempt %d): %s", name, attempt, error)
                    # A refusal stays one until the spec or the settings change.
                    if error.exit_code != 1 or attempt == _ATTEMPTS:
                        self._told(name, f"Git still names the version that went back: {error.what}")
                        break
                except Exception:  # a fault in here must not end the thread: others are waiting
                    log.exception("%s: Git could not be brought back", name)
                    break
                if self._ending.wait(pause):
                    return
                pause *= 2


def _sentence(outcome: Outcome) -> str:
    if outcome.status == "current":
        return f"Git names version {outcome.version}, which serves"
    what = "is open" if outcome.status == "exists" else "was opened"
    return f"the pull request that brings Git back to version {outcome.version} {what}: {outcome.pull_request}"
