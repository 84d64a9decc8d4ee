"""A rollout's hands and eyes on the plane of one machine.

Actions change the desired state, which the supervisor brings about; what came of it is read back from the observed
state on the next look. Every action may be repeated.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from slipway.contracts.errors import SlipwayError
from slipway.serving.local.desired import Arm, Desired, update_desired
from slipway.serving.local.observed import Observed, read_observed
from slipway.serving.rollout.core.observations import ArmObservation, SmokeTestResult
from slipway.serving.rollout.core.types import Action, Alarm, MoveAlias, SetWeights, SmokeTest, StartArm, StopArm
from slipway.serving.rollout.smoke_test import problem_of

if TYPE_CHECKING:
    from slipway.models.registry import Registry


class LocalPlane:
    """The plane of one project on this machine.

    Args:
        project: Folder of the project file.
        registry: Makes the project's registry; called when an alias has to be read or moved.
    """

    def __init__(self, project: Path, registry: Callable[[], Registry]) -> None:
        self._project = project
        self._make_registry = registry
        self._registry: Registry | None = None
        self._lock = threading.Lock()
        self._client = httpx.Client(timeout=5.0, trust_env=False)

    def observed(self) -> Observed:
        """Returns what the supervisor reported last."""
        return read_observed(self._project)

    def arms(self, observed: Observed, digests: Mapping[str, str]) -> dict[str, ArmObservation]:
        """Returns every arm as the core wants it; nothing when no supervisor is at work.

        Args:
            observed: What the supervisor reported.
            digests: sha256 of the bundle by arm name, as far as known.
        """
        if not observed.is_fresh():
            return {}
        # Where requests are drawn instead of users, the weights are right and the comparison is not.
        drawn_otherwise = observed.assignment_desired == "user" and observed.assignment_applied != "user"
        return {
            name: ArmObservation(
                ready=arm.ready,
                total=arm.total,
                crash_looping=arm.crash_looping or arm.state == "failed",
                restarts=arm.restarts,
                # Not a share of the sum: an arm without processes has no weight, and must not lift the others.
                weight_applied=None if drawn_otherwise else arm.weight_applied,
                digest=digests.get(name),
                mirror_applied=arm.mirror_applied,
            )
            for name, arm in observed.arms.items()
        }

    def carry_out(self, action: Action, arms: Mapping[str, Arm]) -> SmokeTestResult | None:
        """Brings one action on its way.

        Args:
            action: What the core asked for.
            arms: How to run each arm of the rollout.

        Returns:
            The result of a smoke test, else None.

        Raises:
            SlipwayError: The registry cannot be reached; the action comes again with the next decision.
        """
        match action:
            case StartArm(arm=name):
                update_desired(self._project, lambda desired: _with_arm(desired, arms[name]))
            case SetWeights():
                update_desired(self._project, lambda desired: _with_weights(desired, action, arms))
            case StopArm(arm=name):
                update_desired(self._project, lambda desired: desired.without_arm(name))
            case MoveAlias(alias=alias, version=version):
                self.registry.set_alias(next(iter(arms.values())).model, alias, version)
            case SmokeTest(arm=name):
                return self._smoke_test(arms[name])
            case Alarm():
                pass  # recorded in the history and logged by the controller
        return None

    @property
    def registry(self) -> Registry:
        """The project's registry. The first call imports MLflow, which takes seconds; see `warm_up`."""
        with self._lock:
            if self._registry is None:
                self._registry = self._make_registry()
            return self._registry

    def warm_up(self) -> None:
        """Opens the registry in the background, so that moving an alias does not hold a decision up."""

        def open_registry() -> None:
            # A registry that is away is tried again when an alias has to be moved, and told then.
            with contextlib.suppress(SlipwayError):
                self.registry.list("")

        threading.Thread(target=open_registry, daemon=True).start()

    def champion(self, model: str) -> str | None:
        """Returns the version that the alias `champion` names, or None."""
        try:
            return self.registry.get(model, "champion").version
        except SlipwayError:
            return None

    def _smoke_test(self, arm: Arm) -> SmokeTestResult | None:
        status = self.observed().arms.get(arm.name)
        if status is None or not status.replicas:
            return None
        for replica in status.replicas:
            problem = problem_of(self._client, replica.url, arm.model, arm.version)
            if problem is not None:
                return SmokeTestResult(arm.name, passed=False, message=f"{replica.name}: {problem}")
        return SmokeTestResult(arm.name, passed=True, message=f"{len(status.replicas)} processes answered well")


def _with_arm(desired: Desired, arm: Arm) -> Desired:
    return desired if desired.arm(arm.name) == arm else desired.with_arm(arm)


def _with_weights(desired: Desired, action: SetWeights, arms: Mapping[str, Arm]) -> Desired:
    known = {arm.name for arm in desired.arms}
    return desired.with_weights(
        {name: weight for name, weight in action.weights.items() if name in known},
        mirrors={name: percent for name, percent in action.mirrors.items() if name in known and percent},
        assignment=action.assignment,
        experiment=_experiment(desired, arms),
    )


def _experiment(desired: Desired, arms: Mapping[str, Arm]) -> tuple[str, ...]:
    """Returns the arms of the rollout, the one that had the users before it first: the same for its whole life."""
    if set(desired.experiment) == set(arms):
        return desired.experiment
    return tuple(sorted(arms, key=lambda name: (-desired.weight(name), name)))
