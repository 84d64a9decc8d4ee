"""Which version serves on a cluster, as a Rollout's status tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipway.contracts.errors import PromotionError
from slipway.contracts.project.promotion import PromotionSpec
from slipway.contracts.rollout.resource import object_name
from slipway.serving.promotion.audit import Audit, Version
from slipway.serving.promotion.ground import find_environment, read_ground
from slipway.serving.promotion.repository import PromotionRepository


def served_version(
    repository: PromotionRepository, spec: PromotionSpec, model: str, to: str, rollout: Mapping[str, Any]
) -> Version:
    """Returns the version that has the traffic, with the address and digest under which Git once named it.

    Args:
        repository: With the manifests.
        spec: The project's `promotion:`.
        model: The registered model.
        to: The environment.
        rollout: The Rollout, as the cluster holds it.

    Raises:
        PromotionError: The Rollout has no stable version, or one that Git never named.
    """
    status = rollout.get("status") or {}
    name = rollout["metadata"]["name"]
    arm = status.get("stable")
    if not arm:
        raise PromotionError("the Rollout has no stable version to go back to", where=name)
    audit = read_ground(repository, spec, model, find_environment(spec, to)).audit
    found = version_of_arm(audit, name, arm)
    if found is None:
        raise PromotionError(
            f"{arm} serves, and Git never named that version", where=name, remedy="Name it with --version."
        )
    return found


def version_of_arm(audit: Audit, rollout: str, arm: str) -> Version | None:
    """Returns the version that an arm of a Rollout serves; None if Git never named one that would be called so."""
    named = [line.wanted for line in audit.lines]
    named += [line.replaces for line in audit.lines if line.replaces is not None]
    return next((version for version in reversed(named) if object_name(rollout, version.version) == arm), None)
