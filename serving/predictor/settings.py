"""The predictor's command line and limits."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slipway.contracts.events import KEY_VARIABLE


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many of them a process answers at a time."""

    body_bytes: int = 1 << 20
    instances: int = 1024
    k: int = 1000
    default_k: int = 10
    excluded: int = 1000
    identifier_characters: int = 256
    body_seconds: float = 30.0
    in_flight: int = 128


@dataclass(frozen=True)
class Settings:
    """Everything a predictor process is told; `model` and `version` label its metrics, events and request ids."""

    bundle: Path
    model: str
    version: str
    key_file: Path
    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int = 8081
    metrics_port: int = 8082
    redis: str | None = None
    feature_project: str | None = None
    collector: str | None = None
    replica: str = "0"
    predictor: str | None = None
    threads: int = 2
    drain_seconds: float = 1.0
    grace_seconds: float = 30.0
    limits: Limits = field(default_factory=Limits)


def _environment(name: str) -> str | None:
    """Returns a variable's value, or None where it is absent or empty, as an optional key of a ConfigMap leaves it."""
    return os.environ.get(name) or None


def parse_arguments(arguments: Sequence[str] | None = None) -> Settings:
    """Returns the settings of a command line; exits with code 2 and a usage line when it is wrong.

    What differs from namespace to namespace may stand in the environment instead: SLIPWAY_REDIS_URL,
    SLIPWAY_FEATURE_PROJECT, SLIPWAY_COLLECTOR_URL, POD_NAME.
    """
    parser = argparse.ArgumentParser(
        prog="python -m slipway.serving.predictor", description="Serves one model bundle.", allow_abbrev=False
    )
    parser.add_argument("--bundle", type=Path, required=True, help="directory of the model bundle")
    parser.add_argument("--model", required=True, help="name under which the model answers")
    parser.add_argument("--version", required=True, help="version, a label of every metric and event")
    parser.add_argument(
        "--key-file",
        type=Path,
        required=True,
        help=f"key that signs request ids; made if absent; not used where {KEY_VARIABLE} holds the key",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--grpc-port", type=int, default=8081, help="0 turns gRPC off")
    parser.add_argument("--metrics-port", type=int, default=8082, help="may be the HTTP port too")
    parser.add_argument(
        "--redis",
        default=_environment("SLIPWAY_REDIS_URL"),
        help="URL of the online store; without it features take their defaults",
    )
    parser.add_argument(
        "--feature-project",
        default=_environment("SLIPWAY_FEATURE_PROJECT"),
        help="name space of the online features (default: the model's name)",
    )
    parser.add_argument(
        "--collector",
        default=_environment("SLIPWAY_COLLECTOR_URL"),
        help="URL of the feedback collector; without it no events are sent",
    )
    parser.add_argument(
        "--replica", default=_environment("POD_NAME") or "0", help="which of several equal processes this is"
    )
    parser.add_argument("--predictor", help="module:Class, a subclass of BundleModel, found from the working directory")
    parser.add_argument("--threads", type=int, default=2, help="threads that score (default: %(default)s)")
    parser.add_argument("--drain-seconds", type=float, default=1.0, help="time between not ready and not listening")
    parser.add_argument("--grace-seconds", type=float, default=30.0, help="longest wait for requests in flight")
    parser.add_argument("--maximum-body", type=int, default=Limits.body_bytes, help="bytes of a request body")
    parser.add_argument(
        "--maximum-in-flight",
        type=int,
        default=Limits.in_flight,
        help="requests answered at a time, over REST and over gRPC; further ones get 429 or RESOURCE_EXHAUSTED",
    )
    parser.add_argument("--maximum-instances", type=int, default=Limits.instances, help="users in one request")
    parser.add_argument("--maximum-k", type=int, default=Limits.k, help="items for one user")
    parser.add_argument("--k", type=int, default=Limits.default_k, help="items where a request does not say how many")
    options = vars(parser.parse_args(arguments))
    limits = Limits(
        body_bytes=options.pop("maximum_body"),
        in_flight=options.pop("maximum_in_flight"),
        instances=options.pop("maximum_instances"),
        k=options.pop("maximum_k"),
        default_k=options.pop("k"),
    )
    if min(limits.body_bytes, limits.in_flight, limits.instances, limits.k, options["threads"]) < 1:
        parser.error("limits and threads are at least 1")
    if not 1 <= limits.default_k <= limits.k:
        parser.error("k is between 1 and maximum-k")
    return Settings(limits=limits, **options)
