"""From a registered model version to the arm that serves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.contracts.errors import UsageError
from slipway.contracts.project import Project
from slipway.serving.local.desired import Arm, Desired, arm_name
from slipway.serving.local.settings import PlaneSettings

if TYPE_CHECKING:
    from slipway.models.registry import ModelVersion

FEATURES_TAG = "slipway.features"
"""Tag of a registered version: folder of the features artifact that it was trained on."""


def settings_for(project: Project) -> PlaneSettings:
    """Returns the settings of a project's plane.

    Raises:
        UsageError: Feedback would be refused before its waiting time has passed.
    """
    serving = project.serving
    if serving.request_expiry < serving.feedback_wait:
        raise UsageError(
            f"request_expiry ({serving.request_expiry}) is shorter than feedback_wait ({serving.feedback_wait})",
            where="serving",
            remedy="Set request_expiry to at least feedback_wait.",
        )
    ports = {name: port for name, port in serving.ports.model_dump().items() if port is not None}
    return PlaneSettings(
        project=project.name,
        directory=project.directory,
        replicas=serving.replicas,
        ports=ports,
        scrape_interval=serving.scrape_interval.total_seconds(),
        feedback_wait=serving.feedback_wait.total_seconds(),
        request_expiry=serving.request_expiry.total_seconds(),
        maximum_body=serving.maximum_body,
        maximum_in_flight=serving.maximum_in_flight,
        capture_retention_days=serving.capture_retention.total_seconds() / 86_400,
        feedback_values={g.value: g.maximum for g in project.rollout.guardrails if g.value and g.maximum},
    )


def arm_for(
    project: Project,
    version: ModelVersion,
    *,
    predictor: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Arm:
    """Returns the arm that serves a registered version as the project file says.

    Args:
        project: The project.
        version: What the registry returned.
        predictor: `module:Class` in place of the project's own.
        environment: Variables for its processes.
    """
    features = version.tags.get(FEATURES_TAG)
    return Arm(
        name=arm_name(version.name, version.version),
        model=version.name,
        version=version.version,
        bundle=version.bundle_dir,
        replicas=project.serving.replicas,
        predictor=predictor or project.serving.predictor,
        environment=dict(environment or {}),
        features=Path(features) if features else None,
    )


def desired_at_start(current: Desired, champion: Arm | None) -> Desired:
    """Returns what a plane that starts should serve.

    With several arms a rollout was under way, whose controller goes on from there. With one or none, the champion is
    served at 100, if there is one.
    """
    if len(current.arms) > 1 or champion is None:
        return current
    if current.arm(champion.name) is not None and current.weight(champion.name) > 0:
        champion = current.arm(champion.name) or champion
    return Desired(arms=(champion,), weights={champion.name: 100})
