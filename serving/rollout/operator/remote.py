"""Rollouts of a cluster from outside: what `slipway rollout --context` reads, and the commands that it gives.

Each is read as the operator left it in the status; a command is an annotation, which the operator takes up once.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from slipway.contracts.errors import ArtifactError, UsageError
from slipway.contracts.rollout import CommandKind, RolloutSpec
from slipway.contracts.rollout.resource import COMMAND_PREFIX, RolloutResource
from slipway.serving.rollout.core.observations import Command
from slipway.serving.rollout.operator.home import RolloutHome
from slipway.serving.rollout.operator.kube import ROLLOUTS, Document, Kube
from slipway.serving.rollout.operator.status import Memory
from slipway.serving.rollout.store import Record

_SILENT_SECONDS = 60.0


class RemoteRollout:
    """One Rollout of a cluster.

    Args:
        kube: The cluster.
        document: The Rollout as it was read.
    """

    def __init__(self, kube: Kube, document: Document) -> None:
        self._kube = kube
        self._document = document
        self._changed = time.monotonic()

    @property
    def id(self) -> str:
        """Its name."""
        return str(self._document["metadata"]["name"])

    @property
    def spec(self) -> RolloutSpec:
        """The versions that it runs, and the policy.

        Raises:
            ArtifactError: The spec is invalid.
        """
        try:
            resource = RolloutResource.model_validate(self._document["spec"])
        except ValidationError as error:
            raise ArtifactError(f"the spec is not valid: {error.errors()[0]['msg']}", where=self.id) from error
        return RolloutHome(self._kube, self._document, resource).spec.model_copy(update={"id": self.id})

    @property
    def run(self) -> int:
        """How many versions were tried so far."""
        return int(self._document.get("status", {}).get("run", 0))

    def refresh(self) -> None:
        """Reads it anew.

        Raises:
            UsageError: It was deleted.
        """
        meta = self._document["metadata"]
        document = self._kube.get(ROLLOUTS, meta["namespace"], meta["name"])
        if document is None:
            raise UsageError("the Rollout was deleted", where=f"{meta['namespace']}/{meta['name']}")
        if document["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            self._changed = time.monotonic()
        self._document = document

    def is_served(self) -> bool:
        """Returns whether an operator is at work: one writes the status of a rollout in motion at every look."""
        return time.monotonic() - self._changed < _SILENT_SECONDS

    def read(self) -> Record | None:
        """Returns the record as it is now, or None when no operator has taken it up yet."""
        self.refresh()
        return self._memory.record

    def history(self) -> list[dict[str, Any]]:
        """Returns what is kept of the history, oldest first."""
        return self._memory.lines

    def plain_state(self) -> dict[str, Any] | None:
        """Returns the record as plain data, as it is now."""
        record = self.read()
        return None if record is None else record.to_dict()

    def lines_after(self, mark: float) -> tuple[list[dict[str, Any]], float]:
        """Returns the lines after a moment, and the moment of the newest."""
        lines = [line for line in self.history() if float(line["at"]) > mark]
        return lines, max((float(line["at"]) for line in lines), default=mark)

    def give(self, kind: CommandKind, by: str) -> Command:
        """Leaves a command for the operator; it takes effect once."""
        command = Command(id=f"{time.time_ns()}-{secrets.token_hex(4)}", kind=kind, by=by)
        meta = self._document["metadata"]
        text = json.dumps({"kind": kind, "by": by})
        patch = {"metadata": {"annotations": {f"{COMMAND_PREFIX}{command.id}": text}}}
        self._kube.merge(ROLLOUTS, meta["namespace"], meta["name"], patch)
        return command

    def want(self, version: str, uri: str, digest: str) -> None:
        """Says which version is wanted now."""
        meta = self._document["metadata"]
        patch = {"spec": {"model": {"version": version, "uri": uri, "digest": digest}}}
        self._kube.merge(ROLLOUTS, meta["namespace"], meta["name"], patch)

    @property
    def _memory(self) -> Memory:
        return Memory.decoded(self._document.get("status", {}).get("record", ""))


class RemoteRollouts:
    """The Rollouts of one namespace.

    Args:
        kube: The cluster.
        namespace: Theirs.
    """

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace

    def all(self) -> list[RemoteRollout]:
        """Returns every Rollout, oldest first."""
        found = self._kube.list(ROLLOUTS, self._namespace)
        return [RemoteRollout(self._kube, document) for document in sorted(found, key=_age)]

    def find(self, name: str | None) -> RemoteRollout:
        """Returns the Rollout of that name, or the only one.

        Raises:
            UsageError: There is none, or there are several and none was named.
        """
        found = self.all()
        named = [one for one in found if name in (None, one.id)]
        if len(named) == 1:
            return named[0]
        remedy = "kubectl get rollouts -A lists them; name the namespace by -n."
        if not named:
            what = "there is no Rollout" if name is None else f"there is no Rollout {name!r}"
            raise UsageError(what, where=f"namespace {self._namespace}", remedy=remedy)
        names = ", ".join(one.id for one in named)
        raise UsageError(
            f"there are several Rollouts: {names}", where=f"namespace {self._namespace}", remedy="Name one."
        )


def _age(document: Mapping[str, Any]) -> tuple[str, str]:
    meta = document["metadata"]
    return str(meta["creationTimestamp"]), str(meta["name"])
