"""Watches Rollouts and what they own, by kopf, and says which Rollout a change concerns.

kopf does lists, watches, reconnections and resumption. Its handlers here only name what is due: kopf stores nothing in
the objects, sets no finalizer and patches nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slipway.contracts.errors import require_extra
from slipway.contracts.rollout.resource import COMMAND_PREFIX
from slipway.serving.rollout.operator.kube import HTTP_ROUTES, INFERENCE_SERVICES, ROLLOUTS
from slipway.serving.rollout.operator.rendering import MANAGED_LABEL, MANAGER, ROLLOUT_LABEL

if TYPE_CHECKING:
    from kubernetes.client import Configuration


def watch(
    configuration: Configuration,
    namespaces: Sequence[str],
    due: Callable[[str, str], None],
    *,
    ready: threading.Event,
    stop: threading.Event,
) -> None:
    """Watches until told to stop.

    Args:
        configuration: Where the cluster is and who calls.
        namespaces: Those to watch; none are all.
        due: Receives namespace and name of a Rollout that something has changed about.
        ready: Set once the watches run.
        stop: Ends them.
    """
    try:
        import kopf
    except ImportError as error:
        raise require_extra("kopf", "operator") from error
    registry = kopf.OperatorRegistry()
    seen: dict[str, tuple[Any, ...]] = {}

    @kopf.on.startup(registry=registry)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.scanning.disabled = True
        settings.posting.enabled = False
        settings.watching.server_timeout = 290
        settings.watching.client_timeout = 300
        settings.watching.connect_timeout = 10
        settings.networking.request_timeout = 60
        ready.set()

    @kopf.on.login(registry=registry)
    def log_in(**_: Any) -> Any:
        return _connection(configuration)

    @kopf.on.event(ROLLOUTS.group, ROLLOUTS.version, ROLLOUTS.plural, registry=registry)
    def rollout(body: Mapping[str, Any], **_: Any) -> None:
        meta = body["metadata"]
        key = f"{meta['namespace']}/{meta['name']}"
        # Our own writes of the status come back as changes too, and mean nothing.
        now = _essence(body)
        if seen.get(key) != now:
            seen[key] = now
            due(meta["namespace"], meta["name"])

    def owned(body: Mapping[str, Any], **_: Any) -> None:
        meta = body["metadata"]
        name = (meta.get("labels") or {}).get(ROLLOUT_LABEL)
        if name:
            due(meta["namespace"], name)

    for resource in (INFERENCE_SERVICES, HTTP_ROUTES):
        labels = {MANAGED_LABEL: MANAGER}
        kopf.on.event(
            resource.group,
            resource.version,
            resource.plural,
            labels=labels,
            registry=registry,
        )(owned)

    asyncio.run(
        kopf.operator(
            registry=registry,
            namespaces=list(namespaces),
            clusterwide=not namespaces,
            standalone=True,
            stop_flag=stop,
        )
    )


def _essence(body: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns what of a Rollout is not written by the operator itself."""
    meta = body["metadata"]
    commands = {name: text for name, text in (meta.get("annotations") or {}).items() if name.startswith(COMMAND_PREFIX)}
    return meta["uid"], meta.get("generation"), meta.get("deletionTimestamp"), tuple(sorted(commands.items()))


def _connection(configuration: Configuration) -> Any:
    """Returns kopf's connection for the same server and caller as the client's; tokens as they are now."""
    import kopf

    header = configuration.get_api_key_with_prefix("authorization")
    scheme, _, token = (header or "").partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        username=configuration.username or None,
        password=configuration.password or None,
        scheme=scheme if token else None,
        token=token or None,
    )
