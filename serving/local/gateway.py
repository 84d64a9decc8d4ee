"""Configuration of Traefik: weighted arms with health checks and retries, and nothing else in public.

Measured on Traefik 3.7 and relied upon here: a failed attempt is counted for the service of the arm that was chosen
(`traefik_service_requests_total`, code 502 or 503), also when a retry answers the client; without a health check on
every child of a weighted service its dead children keep their traffic; retries of POST, and retries after the request
was sent, have to be asked for. A copy is sent after the user's answer is complete, is counted for the service of the
arm that got it, and carries the same trace id in `traceparent` as the original.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.contracts.files import write_atomically, write_json
from slipway.contracts.metrics import LATENCY_BUCKETS, SHADOW_HEADER, SMOKE_TEST_HEADER

PREDICTION_ROUTER = "prediction"
PREDICTION_SERVICE = "slipway-prediction"
ASSIGNMENT_SERVICE = "slipway-assignment"
ASSIGNMENT_PROCESSES = "slipway-assignment-processes"
SHADOW_SERVICE = "slipway-shadow"
MIRROR_SUFFIX, ASSIGNED_SUFFIX = "-mirror", "-assigned"
GRPC_SERVICE = "slipway-grpc"
FEEDBACK_SERVICE = "slipway-feedback"
ARM_HEADER = "x-slipway-arm"

# uvicorn closes idle connections after 5 s; a request sent into a closing one would count as the arm's error.
_IDLE_CONNECTION = "2s"
# The retries together outlast what it takes to notice a dead process and to take it out of the routes: the last wait is
# twice the first, so that they take about a second.
_RETRY_ATTEMPTS, _RETRY_FIRST_WAIT = 20, "40ms"
# Copies that wait for a silent arm hold memory of the gateway; those beyond are dropped.
_COPIES_IN_FLIGHT = 256
_SPANS_PATH = "/v1/traces"
_PREDICTION_PATHS = "(PathPrefix(`/v1/models/`) || PathPrefix(`/v2/models/`))"
_GRPC_METHODS = r"^/inference\.GRPCInferenceService/(Server(Live|Ready|Metadata)|Model(Ready|Metadata|Infer))$"


@dataclass(frozen=True)
class ArmRoute:
    """Where the requests of one arm go.

    Attributes:
        weight: Its share, or None when it takes no part in the split (it may still finish requests).
        urls: Addresses of the processes that take requests.
        grpc_urls: The same for gRPC, as h2c:// addresses.
        mirror: Percent of the public requests of which it gets a copy.
    """

    name: str
    weight: int | None
    urls: tuple[str, ...]
    grpc_urls: tuple[str, ...] = ()
    mirror: int = 0


def static_configuration(*, public: int, internal: int, assigned: int, grpc: int, routes: Path) -> dict[str, Any]:
    """Returns Traefik's configuration for its start.

    Args:
        public: Port of the gateway.
        internal: Port of API, metrics, ping and of requests to a named arm.
        assigned: Port for users' requests for which an arm was drawn; they count for it.
        grpc: Port for gRPC without TLS.
        routes: File that holds the routes and is watched.
    """
    lifecycle = {"transport": {"lifeCycle": {"graceTimeOut": "10s"}}}
    untraced = {"observability": {"tracing": False}}
    return {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "entryPoints": {
            "public": {"address": f"127.0.0.1:{public}"} | lifecycle,
            "grpc": {"address": f"127.0.0.1:{grpc}"} | lifecycle | untraced,
            "internal": {"address": f"127.0.0.1:{internal}"} | untraced,
            "assigned": {"address": f"127.0.0.1:{assigned}"} | lifecycle | untraced,
        },
        "api": {"insecure": False, "dashboard": False},
        "ping": {"entryPoint": "internal"},
        "providers": {"providersThrottleDuration": "50ms", "file": {"filename": str(routes), "watch": True}},
        "metrics": {
            "prometheus": {
                "entryPoint": "internal",
                "addServicesLabels": True,
                "addEntryPointsLabels": False,
                "buckets": list(LATENCY_BUCKETS),
            }
        },
        # Nothing is recorded: it is what stamps a request and its copies with one id, where there are copies. A caller
        # who asks for a record by a flag in `traceparent` has it sent to an address that throws it away.
        "tracing": {"sampleRate": 0.0, "otlp": {"http": {"endpoint": f"http://127.0.0.1:{internal}{_SPANS_PATH}"}}},
        "log": {"level": "INFO", "noColor": True},
    }


def routes_configuration(
    arms: Sequence[ArmRoute],
    *,
    collector_url: str | None,
    maximum_body: int,
    assignment_urls: Sequence[str] = (),
    assigned: bool = False,
) -> dict[str, Any]:
    """Returns routers, middlewares and services for these arms.

    Args:
        arms: All arms; one without an address keeps its service, and with it its counts.
        collector_url: Where feedback goes, or None when nothing collects it.
        maximum_body: Greatest request body in bytes; larger ones are refused at the gateway.
        assignment_urls: Processes that draw an arm for each user; with none, the gateway draws one for each request.
        assigned: Whether such processes live: what they still send must find its arm.
    """
    services: dict[str, Any] = {}
    routers: dict[str, Any] = {
        "internal-api": {"rule": "PathPrefix(`/api`)", "entryPoints": ["internal"], "service": "api@internal"},
        "internal-spans": {"rule": f"Path(`{_SPANS_PATH}`)", "entryPoints": ["internal"], "service": "ping@internal"},
    }
    for arm in arms:
        services[arm.name] = _balancer(arm.urls, check=("/v2/health/ready", "1s"))
        services[f"{arm.name}-direct"] = _balancer(arm.urls)
        routers[f"{arm.name}-direct"] = {
            "rule": f"Header(`{ARM_HEADER}`, `{arm.name}`) && {_PREDICTION_PATHS}",
            "entryPoints": ["internal"],
            "service": f"{arm.name}-direct",
        }
        if arm.grpc_urls:
            services[f"{arm.name}-grpc"] = _balancer(arm.grpc_urls)
    services[PREDICTION_SERVICE] = _weighted({arm.name: arm.weight for arm in arms}, health_check=True)
    entrance = PREDICTION_SERVICE
    if assignment_urls:
        entrance = ASSIGNMENT_SERVICE
        # With all of them dead, an answer by chance is better than none; noticed before the retries are used up.
        services[ASSIGNMENT_PROCESSES] = _balancer(assignment_urls, check=("/-/ready", "200ms"))
        services[entrance] = {"failover": {"service": ASSIGNMENT_PROCESSES, "fallback": PREDICTION_SERVICE}}
    for arm in arms if assigned or assignment_urls else ():
        _add_assigned(routers, services, arm)
    # Entry points change one after the other: a request between two configurations still finds someone to answer.
    routers["assigned"] = {
        "rule": _PREDICTION_PATHS,
        "entryPoints": ["assigned"],
        "service": PREDICTION_SERVICE,
        "priority": 1,
    }
    mirrors = {arm.name: arm.mirror for arm in arms if arm.mirror and arm.weight is not None}
    if mirrors:
        entrance, main = SHADOW_SERVICE, entrance
        services[entrance] = _mirroring(main, mirrors)
        for name in mirrors:
            services[name + MIRROR_SUFFIX] = _weighted({name: 1}) | {"middlewares": ["shadow", "shadow-limit"]}
    routers[PREDICTION_ROUTER] = {
        "rule": _PREDICTION_PATHS,
        "entryPoints": ["public"],
        "service": entrance,
        "middlewares": ["outside", "limit", "retry"],
        "observability": {"tracing": bool(mirrors)},
    }
    if any(arm.grpc_urls for arm in arms):
        services[GRPC_SERVICE] = _weighted({f"{arm.name}-grpc": arm.weight for arm in arms if arm.grpc_urls})
        routers["grpc"] = {
            "rule": f"PathRegexp(`{_GRPC_METHODS}`)",
            "entryPoints": ["grpc"],
            "service": GRPC_SERVICE,
            "middlewares": ["outside", "retry"],
        }
    if collector_url is not None:
        services[FEEDBACK_SERVICE] = _balancer((collector_url,))
        routers["feedback"] = {
            "rule": "Path(`/v1/feedback`)",
            "entryPoints": ["public"],
            "service": FEEDBACK_SERVICE,
            "middlewares": ["outside", "limit", "retry"],
            "observability": {"tracing": False},
        }
    retry = {
        "attempts": _RETRY_ATTEMPTS,
        "initialInterval": _RETRY_FIRST_WAIT,
        "timeout": "15s",
        # A predictor's own answers have other codes; predictions change nothing, and feedback counts once.
        "status": ["502-504"],
        "retryNonIdempotentMethod": True,
    }
    # An empty value removes the header.
    outside = {"headers": {"customRequestHeaders": {SMOKE_TEST_HEADER: "", SHADOW_HEADER: "", ARM_HEADER: ""}}}
    shadow = {"headers": {"customRequestHeaders": {SHADOW_HEADER: "1"}}}
    shadow_limit = {"amount": _COPIES_IN_FLIGHT, "sourceCriterion": {"requestHeaderName": SHADOW_HEADER}}
    # The limit of `retry` itself only ends the retries of larger requests.
    limit = {"maxRequestBodyBytes": maximum_body, "memRequestBodyBytes": maximum_body}
    transport = {
        "maxIdleConnsPerHost": 256,
        "forwardingTimeouts": {
            "dialTimeout": "1s",
            "responseHeaderTimeout": "10s",
            "idleConnTimeout": _IDLE_CONNECTION,
        },
    }
    return {
        "http": {
            "routers": routers,
            "middlewares": {
                "outside": outside,
                "retry": {"retry": retry},
                "limit": {"buffering": limit},
                "shadow": shadow,
                "shadow-limit": {"inFlightReq": shadow_limit},
            },
            "services": services,
            "serversTransports": {"predictors": transport},
        }
    }


def _add_assigned(routers: dict[str, Any], services: dict[str, Any], arm: ArmRoute) -> None:
    """Adds the route of users for whom this arm was drawn: to its own service, and past it only when it is gone.

    Until its death is noticed, attempts count as its errors, and the retry at the public entrance comes here again.
    """
    target = PREDICTION_SERVICE
    if arm.weight is not None:
        target = arm.name + ASSIGNED_SUFFIX
        services[target] = {"failover": {"service": arm.name, "fallback": PREDICTION_SERVICE}}
    routers[arm.name + ASSIGNED_SUFFIX] = {
        "rule": f"Header(`{ARM_HEADER}`, `{arm.name}`) && {_PREDICTION_PATHS}",
        "entryPoints": ["assigned"],
        "service": target,
    }


def _mirroring(service: str, mirrors: Mapping[str, int]) -> dict[str, Any]:
    # No `maxBodySize`: with one, Traefik allocates that much for every request. `limit` has refused larger ones.
    copies = [{"name": name + MIRROR_SUFFIX, "percent": percent} for name, percent in mirrors.items()]
    return {"mirroring": {"service": service, "mirrors": copies}}


def _balancer(urls: Sequence[str], *, check: tuple[str, str] | None = None) -> dict[str, Any]:
    """Returns a balancer over these addresses; `check` is path and interval of its health check."""
    balancer: dict[str, Any] = {"servers": [{"url": url} for url in urls], "serversTransport": "predictors"}
    if check is not None:
        # The long timeout keeps a busy machine from taking healthy processes out; a dead one refuses at once.
        balancer["healthCheck"] = {"path": check[0], "interval": check[1], "timeout": "3s"}
    return {"loadBalancer": balancer}


def _weighted(weights: Mapping[str, int | None], *, health_check: bool = False) -> dict[str, Any]:
    taking_part = [{"name": name, "weight": weight} for name, weight in weights.items() if weight is not None]
    if not taking_part:
        # A balancer without servers answers 503; a weighted service without children is refused as a whole.
        return _balancer(())
    weighted: dict[str, Any] = {"services": taking_part}
    if health_check:
        weighted["healthCheck"] = {}
    return {"weighted": weighted}


def write_static(path: Path, configuration: Mapping[str, Any]) -> None:
    """Writes the configuration for the start (JSON is YAML)."""
    write_json(path, configuration)


def write_routes(path: Path, configuration: Mapping[str, Any]) -> bool:
    """Replaces the watched file by renaming, if it would change; returns whether it did."""
    text = json.dumps(configuration, indent=1, sort_keys=True) + "\n"
    try:
        if path.read_text() == text:
            return False
    except OSError:
        pass
    write_atomically(path, text)
    return True
