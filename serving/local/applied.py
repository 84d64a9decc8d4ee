"""What the running gateway does, read back from its own API: weights of the split, copies, and addresses by service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slipway.serving.local.desired import Assignment
from slipway.serving.local.gateway import (
    ASSIGNED_SUFFIX,
    ASSIGNMENT_PROCESSES,
    ASSIGNMENT_SERVICE,
    MIRROR_SUFFIX,
    PREDICTION_ROUTER,
    PREDICTION_SERVICE,
)
from slipway.serving.local.probes import get_json


@dataclass(frozen=True)
class AppliedRoutes:
    """What the running gateway says that it does.

    Attributes:
        weights: By arm; of arms whose users go elsewhere because they are gone, 0.
        servers: Addresses by service.
        mirrors: Percent of copies by arm.
        assignment: What is drawn for a public request: an arm for each request, or one for its user.
    """

    weights: Mapping[str, int] = field(default_factory=dict)
    servers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    mirrors: Mapping[str, int] = field(default_factory=dict)
    assignment: Assignment = "request"


def applied_routes(internal_url: str) -> AppliedRoutes | None:
    """Returns what the running gateway does, or None when it does not answer.

    Args:
        internal_url: Address of its API.
    """
    content = get_json(f"{internal_url}/api/rawdata")  # routers and services of one moment
    if not isinstance(content, dict):
        return None
    routers, services = _by_name(content.get("routers")), _by_name(content.get("services"))
    servers = {
        name: frozenset(str(server.get("url", "")) for server in service["loadBalancer"].get("servers") or ())
        for name, service in services.items()
        if "loadBalancer" in service
    }
    entrance = str(routers.get(PREDICTION_ROUTER, {}).get("service", ""))
    mirroring = services.get(entrance, {}).get("mirroring")
    mirrors = {}
    if mirroring is not None:
        entrance = str(mirroring.get("service", ""))
        copies = mirroring.get("mirrors") or ()
        mirrors = {_arm(copy["name"], MIRROR_SUFFIX): int(copy.get("percent", 0)) for copy in copies}
    if entrance != ASSIGNMENT_SERVICE:
        return AppliedRoutes(_weights(services), servers, mirrors)
    drawn = _drawn_weights(sorted(servers.get(ASSIGNMENT_PROCESSES, ())))
    reachable = {
        _arm(name, ASSIGNED_SUFFIX)
        for name, router in routers.items()
        if name.endswith(ASSIGNED_SUFFIX) and router.get("service") != PREDICTION_SERVICE
    }
    weights = {arm: weight if arm in reachable else 0 for arm, weight in drawn.items()}
    return AppliedRoutes(weights, servers, mirrors, "user")


def assignment_in_force(url: str) -> Mapping[str, Any] | None:
    """Returns the assignment by which one process draws, or None when it does not say."""
    content = get_json(f"{url}/-/assignment", timeout=1.0)
    return content if isinstance(content, dict) else None


def _drawn_weights(urls: Sequence[str]) -> dict[str, int]:
    """Returns the weights by which every process draws; none while they differ, or where one does not say."""
    assignments = [assignment_in_force(url) for url in urls]
    arms = [assignment.get("arms") if assignment is not None else None for assignment in assignments]
    if not arms or not isinstance(arms[0], dict) or any(other != arms[0] for other in arms):
        return {}
    return {str(arm): int(percent) for arm, percent in arms[0].items()}


def _weights(services: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    children = services.get(PREDICTION_SERVICE, {}).get("weighted", {}).get("services", [])
    return {_arm(child["name"], ""): int(child.get("weight", 0)) for child in children}


def _by_name(entries: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(entries, dict):
        return {}
    return {str(name).removesuffix("@file"): entry for name, entry in entries.items() if isinstance(entry, dict)}


def _arm(name: Any, suffix: str) -> str:
    return str(name).removesuffix("@file").removesuffix(suffix)
