"""Where the rollouts of a command are: on this machine, or on a cluster by `--context`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from slipway.contracts.errors import UsageError

if TYPE_CHECKING:
    from slipway.contracts.rollout import CommandKind, RolloutSpec
    from slipway.serving.rollout.core.observations import Command as Given
    from slipway.serving.rollout.operator.remote import RemoteRollout, RemoteRollouts
    from slipway.serving.rollout.store import Record, RolloutFolder, RolloutStore

Command = TypeVar("Command", bound=Callable[..., Any])


class Rollout(Protocol):
    """One rollout, wherever it is."""

    @property
    def id(self) -> str: ...

    @property
    def spec(self) -> RolloutSpec: ...

    def read(self) -> Record | None: ...

    def history(self) -> list[dict[str, Any]]: ...

    def give(self, kind: CommandKind, by: str) -> Given: ...


class Place:
    """Rollouts of this machine's project, or of a namespace of a cluster.

    Args:
        file: Project file, for this machine.
        cluster: Context and namespace, or None for this machine.
    """

    def __init__(self, file: Path, cluster: tuple[str, str | None] | None) -> None:
        self._file, self._cluster = file, cluster

    @property
    def remote(self) -> bool:
        """Whether it is a cluster."""
        return self._cluster is not None

    def store(self) -> RolloutStore:
        """Returns the rollouts of this machine."""
        from slipway.contracts.project import load_project
        from slipway.serving.local.layout import PlaneLayout
        from slipway.serving.rollout.store import RolloutStore

        return RolloutStore(PlaneLayout(load_project(self._file).directory).rollouts)

    def rollouts(self) -> RemoteRollouts:
        """Returns the Rollouts of the cluster."""
        from slipway.serving.rollout.operator.kube import connect, namespace_of
        from slipway.serving.rollout.operator.remote import RemoteRollouts

        assert self._cluster is not None
        context, namespace = self._cluster
        return RemoteRollouts(connect(context=context), namespace or namespace_of(context))

    def all(self) -> list[Rollout]:
        """Returns every rollout, oldest first."""
        return [*(self.rollouts() if self.remote else self.store()).all()]

    def find(self, name: str | None) -> Rollout:
        """Returns the rollout of that name; without one, the newest of this machine or the only one of the cluster.

        Raises:
            UsageError: There is none.
        """
        return (self.rollouts() if self.remote else self.store()).find(name)

    def remote_rollout(self, name: str | None) -> RemoteRollout:
        """Returns a Rollout of the cluster."""
        return self.rollouts().find(name)

    def served(self, rollout: Rollout | RolloutFolder | RemoteRollout) -> bool:
        """Returns whether anything runs the rollout."""
        from slipway.serving.local.observed import read_observed
        from slipway.serving.rollout.store import RolloutFolder

        if isinstance(rollout, RolloutFolder):
            return read_observed(rollout.path.parents[3]).is_fresh()
        return rollout.is_served()  # type: ignore[attr-defined, no-any-return]

    def told(self, name: str | None) -> RolloutFolder | RemoteRollout:
        """Returns a rollout whose history can be read."""
        return self.remote_rollout(name) if self.remote else self.store().find(name)

    @property
    def silence(self) -> tuple[str, str]:
        """What to say when nothing runs a rollout, and what to do."""
        if self.remote:
            remedy = "See: kubectl get pods -A -l app.kubernetes.io/component=operator"
            return "no operator is at work, as its status does not change", remedy
        return "the serving plane is down", "Start it with `slipway up`; the rollout goes on where it was."


def place_options(command: Command) -> Command:
    """Adds `--context` and `-n/--namespace`; the parameters are `cluster_context` and `cluster_namespace`."""

    command = click.option(
        "-n", "--namespace", "cluster_namespace", metavar="NAME", help="With --context: namespace of the Rollout."
    )(command)
    return click.option(
        "--context",
        "cluster_context",
        metavar="NAME",
        help="Do it on the cluster of this context of the kubeconfig, not on this machine.",
    )(command)


def place_of(file: Path, context: str | None, namespace: str | None) -> Place:
    """Returns the place that a command line names.

    Raises:
        UsageError: A namespace was named without a cluster.
    """
    if namespace is not None and context is None:
        raise UsageError("a namespace is of a cluster", where="--namespace", remedy="Name its context by --context.")
    return Place(file, None if context is None else (context, namespace))
