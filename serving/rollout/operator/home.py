"""A Rollout in the cluster as the place where a rollout is kept: spec, commands, and what is remembered.

What is decided is written before it is carried out, and only onto the very object that was read: a second operator, or
an edit in between, makes the write fail, and the look is begun anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from slipway.contracts.rollout import ArmTarget, CommandKind, RolloutPolicy, RolloutSpec
from slipway.contracts.rollout.resource import COMMAND_PREFIX, RolloutResource, object_name
from slipway.serving.rollout.core.observations import Command, Target
from slipway.serving.rollout.core.types import Phase, State
from slipway.serving.rollout.operator.kube import ROLLOUTS, Document, Kube
from slipway.serving.rollout.operator.observing import ClusterSight
from slipway.serving.rollout.operator.rendering import Owner, VersionTemplate
from slipway.serving.rollout.operator.status import Condition, Memory, conditions_of, readable
from slipway.serving.rollout.store import Record

Line = Mapping[str, Any]


class RolloutHome:
    """One Rollout, as it was read.

    Args:
        kube: The cluster.
        document: The Rollout.
        spec: Its spec, checked.
        written: Receives lines of history that were written.
        clock: Unix seconds.

    Raises:
        ArtifactError: Its status was altered.
    """

    def __init__(
        self,
        kube: Kube,
        document: Document,
        spec: RolloutResource,
        *,
        written: Callable[[Sequence[Line]], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._document = document
        self._written = written
        self._clock = clock
        self.resource = spec
        self.owner = owner_of(document)
        self._status: Mapping[str, Any] = document.get("status", {})
        self._memory = Memory.decoded(self._status.get("record", ""))
        self._versions = {
            entry["arm"]: VersionTemplate.from_plain(entry["template"]) for entry in self._status.get("versions", ())
        }
        self.champion: str | None = self._status.get("champion")
        self._before = self.state
        self.sight: ClusterSight | None = None
        self.conditions: list[Condition] = []

    @property
    def id(self) -> str:
        """`namespace/name`."""
        return f"{self.owner.namespace}/{self.owner.name}"

    @property
    def state(self) -> State | None:
        """The core's state, or None before the first look."""
        return None if self._memory.record is None else self._memory.record.state

    @property
    def spec(self) -> RolloutSpec:
        """The rollout that runs, or that would begin: the versions of the state, by the policy of the spec."""
        state = self.state
        wanted = self.resource.target(self.owner.name)
        candidates = (wanted,) if state is None else tuple(self._target(one) for one in state.candidates)
        stable = None if state is None or state.stable is None else self._target(state.stable)
        return RolloutSpec(
            id=self.id,
            model=self.resource.model.name,
            candidates=candidates,
            stable=stable,
            policy=self.resource.policy,
        )

    @property
    def wanted(self) -> Target | None:
        """The version that the spec wants, as the core is told it."""
        target = self.resource.target(self.owner.name)
        wanted = Target(target.arm, target.version, target.digest)
        state = self.state
        # A shadow ends without traffic: its version would begin again at once.
        return None if state is not None and state.phase is Phase.COMPLETED and wanted in state.candidates else wanted

    @property
    def clash(self) -> str | None:
        """What keeps the wanted version from being told apart from the one that serves, or None."""
        state = self.state
        if state is None:
            return None
        target = self.resource.target(self.owner.name)
        serving = state.candidate if state.phase is Phase.PROMOTED else state.stable
        if serving is None or serving.arm != target.arm or not (serving.digest and target.digest):
            return None
        if serving.digest == target.digest:
            return None
        return f"version {target.version} serves with another digest; give the new bundle a version of its own"

    @property
    def arms(self) -> Mapping[str, VersionTemplate]:
        """How each version is served, replicas as the spec has them now."""
        return self._templates(self.state)

    def _templates(self, state: State | None) -> dict[str, VersionTemplate]:
        arms = dict(self._versions)
        own = self.resource.target(self.owner.name).arm
        running = () if state is None else (*state.candidates, *((state.stable,) if state.stable else ()))
        begins = state is None or state.terminal or all(target.arm != own for target in running)
        if begins or own not in arms:
            serves = state is not None and state.weights.get(own, 0) > 0
            if not (serves and own in arms):
                arms[own] = VersionTemplate.of(self.resource)
        return {name: self._with_replicas(template) for name, template in arms.items()}

    def read(self) -> Record | None:
        """Returns what is remembered, or None before the first look."""
        return self._memory.record

    def write(self, record: Record, lines: Sequence[Line] = ()) -> None:
        """Writes state and history into the status.

        Raises:
            ConflictError: The Rollout was changed since it was read.
        """
        arms, before = self._templates(self._before), self._before
        if before is not None and before.terminal and record.state == replace(before, last_now=record.state.last_now):
            # At rest, nothing is written but what was told anew.
            self._apply({**self._readable(record.state), **self._hidden()}, self._conditions(record.state))
            return
        self._memory.record = record
        self._memory.policy = self.resource.policy.model_dump(mode="json", exclude_unset=True)
        self._memory.add(lines)
        state = record.state
        kept = [*state.candidates, *((state.stable,) if state.stable else ())]
        self._versions = {target.arm: arms[target.arm] for target in kept if target.arm in arms}
        hidden: dict[str, Any] = {
            "record": self._memory.encoded(),
            "versions": [{"arm": arm, "template": one.to_plain()} for arm, one in sorted(self._versions.items())],
            "run": int(self._status.get("run", 0)) + int(_is_new_run(before, state)),
        }
        if self.champion is not None:
            hidden["champion"] = self.champion
        self._apply({**self._readable(state), **hidden}, self._conditions(state))
        self._before = state
        if lines:
            self._written(lines)

    def say(self, conditions: Sequence[Condition], *, phase: str | None = None, reason: str | None = None) -> None:
        """Writes conditions alone, and phase and reason where no rollout has begun; nothing that has not changed."""
        told = {condition.type for condition in conditions}
        old = [one for one in self._status.get("conditions", ()) if one["type"] not in told]
        status = {name: part for name, part in self._status.items() if name not in ("conditions", "observedGeneration")}
        if self.state is None:
            status |= {name: part for name, part in (("phase", phase), ("reason", reason)) if part is not None}
        self._apply(status, conditions, kept=old)

    def commands(self) -> tuple[Command, ...]:
        """Returns the commands in the annotations, in the order of their ids."""
        return commands_of(self._document)

    def clear(self, handled: Sequence[str]) -> None:
        """Removes the annotations of commands that were handled, and of those that say nothing."""
        annotations = self._document["metadata"].get("annotations", {})
        known = {command.id for command in self.commands()}
        own = [name for name in annotations if name.startswith(COMMAND_PREFIX)]
        gone = [name for name in own if (one := name.removeprefix(COMMAND_PREFIX)) in handled or one not in known]
        if not gone:
            return
        patch = {"metadata": {"annotations": dict.fromkeys(gone)}}
        document = self._kube.merge(ROLLOUTS, self.owner.namespace, self.owner.name, patch)
        if document is not None:
            self._document = document

    def set_champion(self, version: str) -> None:
        """Remembers which version the alias names, where no registry does."""
        if self.champion == version:
            return
        self.champion = version
        if self._memory.record is not None:
            self.write(self._memory.record)

    def _apply(
        self, status: Mapping[str, Any], conditions: Sequence[Condition], kept: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        meta = self._document["metadata"]
        now = self._clock()
        previous = self._status.get("conditions", ())
        made = [condition.document(previous, meta["generation"], now) for condition in conditions]
        body = {**status, "conditions": [*kept, *made], "observedGeneration": meta["generation"]}
        if body == self._status:
            return
        document = {
            "metadata": {
                "name": self.owner.name,
                "namespace": self.owner.namespace,
                "resourceVersion": meta["resourceVersion"],
            },
            "status": body,
        }
        self._document = self._kube.apply(ROLLOUTS, document, subresource="status")
        self._status = self._document.get("status", {})

    def _target(self, target: Target) -> ArmTarget:
        template = self._versions.get(target.arm)
        bundle = "" if template is None else template.uri
        return ArmTarget(arm=target.arm, version=target.version, digest=target.digest, bundle=bundle)

    def _readable(self, state: State) -> dict[str, Any]:
        return readable(state, self.resource.policy, self._memory.lines, self.sight)

    def _hidden(self) -> dict[str, Any]:
        """Returns what the status holds already of what is not for people."""
        return {name: self._status[name] for name in ("record", "versions", "run", "champion") if name in self._status}

    def _conditions(self, state: State) -> list[Condition]:
        return [*self.conditions, *conditions_of(state, self.sight)]

    def _with_replicas(self, template: VersionTemplate) -> VersionTemplate:
        least, most = self.resource.predictor.min_replicas, template.predictor.max_replicas
        replicas = {"min_replicas": least, "max_replicas": most if most is None else max(most, least)}
        predictor = template.predictor.model_copy(update=replicas)
        return VersionTemplate(template.model, template.version, template.uri, predictor)


def _is_new_run(before: State | None, state: State) -> bool:
    return before is None or (before.candidates, before.started) != (state.candidates, state.started)


def owner_of(document: Mapping[str, Any]) -> Owner:
    """Returns the Rollout as the owner of its objects."""
    meta = document["metadata"]
    return Owner(meta["namespace"], meta["name"], meta["uid"])


def commands_of(document: Mapping[str, Any]) -> tuple[Command, ...]:
    """Returns the commands that people left in the annotations, in the order of their ids."""
    found = []
    for name, text in sorted((document["metadata"].get("annotations") or {}).items()):
        if not name.startswith(COMMAND_PREFIX):
            continue
        kind, by = text, ""
        try:
            content = json.loads(text)
            kind, by = str(content["kind"]), str(content.get("by", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        if kind in get_args(CommandKind):
            found.append(Command(name.removeprefix(COMMAND_PREFIX), kind, by[:100]))
    return tuple(found)


def accepted_policy(document: Mapping[str, Any]) -> RolloutPolicy | None:
    """Returns the last policy that was valid, for a rollout whose spec was edited into nonsense."""
    policy = Memory.decoded(document.get("status", {}).get("record", "")).policy
    return None if policy is None else RolloutPolicy.model_validate(policy)


__all__ = ["RolloutHome", "accepted_policy", "commands_of", "object_name", "owner_of"]
