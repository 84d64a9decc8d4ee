"""The operator's command line and environment."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """Everything an operator is told; see the flags."""

    namespaces: tuple[str, ...]
    prometheus: str | None
    mlflow: str | None
    slack: str | None
    alertmanager: str | None
    kubeconfig: str | None
    context: str | None
    interval: float
    resync: float
    workers: int
    lookback: float
    host: str
    port: int
    leader_election: bool
    lease_namespace: str
    lease_name: str
    lease_duration: float
    identity: str
    git_repository: str | None = None
    git_host: Literal["github", "gitlab"] | None = None
    git_api: str | None = None
    git_branch: str | None = None
    git_directory: str = "manifests/models"


def parse_arguments(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Returns the settings of a command line and an environment; exits with code 2 and a usage line when wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m slipway.serving.rollout.operator",
        description="Runs the Rollouts of a cluster.",
        allow_abbrev=False,
    )
    parser.add_argument("--namespace", action="append", default=[], help="namespace to work in; may be repeated")
    parser.add_argument("--all-namespaces", action="store_true", help="work in every namespace")
    parser.add_argument(
        "--prometheus-url", default=environment.get("SLIPWAY_PROMETHEUS_URL"), help="Prometheus of the predictors"
    )
    parser.add_argument(
        "--mlflow-url", default=environment.get("SLIPWAY_MLFLOW_URL"), help="registry whose alias champion is moved"
    )
    parser.add_argument("--alertmanager-url", default=environment.get("SLIPWAY_ALERTMANAGER_URL"))
    parser.add_argument(
        "--git-repository",
        default=environment.get("SLIPWAY_GIT_REPOSITORY") or None,
        help="where manifests/models is: opens the pull request that reverts what went back, by SLIPWAY_GIT_TOKEN",
    )
    git = parser.add_argument_group("what the repository's address does not say")
    git.add_argument("--git-host", choices=("github", "gitlab"), default=environment.get("SLIPWAY_GIT_HOST") or None)
    git.add_argument("--git-api", default=environment.get("SLIPWAY_GIT_API") or None)
    git.add_argument("--git-branch", default=environment.get("SLIPWAY_GIT_BRANCH") or None)
    git.add_argument("--git-directory", default=environment.get("SLIPWAY_GIT_DIRECTORY") or "manifests/models")
    parser.add_argument("--kubeconfig", help="outside a cluster: its configuration (default: KUBECONFIG)")
    parser.add_argument("--context", help="outside a cluster: a context of that file")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two looks in motion")
    parser.add_argument("--resync", type=float, default=300.0, help="seconds between two looks at rest")
    parser.add_argument("--workers", type=int, default=4, help="looks at a time (default: %(default)s)")
    parser.add_argument(
        "--lookback", type=float, default=60.0, help="seconds within which a series must have been scraped"
    )
    parser.add_argument("--host", default="0.0.0.0", help="address for metrics and health")  # noqa: S104 - in a pod
    parser.add_argument("--port", type=int, default=8080, help="port for metrics and health; 0 serves none")
    parser.add_argument("--no-leader-election", action="store_true", help="for a single operator")
    parser.add_argument("--lease-namespace", default=environment.get("POD_NAMESPACE", "default"))
    parser.add_argument("--lease-name", default="slipway-operator")
    parser.add_argument("--lease-duration", type=float, default=15.0, help="seconds until another may take over")
    parser.add_argument("--identity", default=environment.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}")
    options = parser.parse_args(arguments)
    if bool(options.namespace) == options.all_namespaces:
        parser.error("say --namespace NAME (once or more), or --all-namespaces")
    if min(options.interval, options.resync, options.lookback, options.workers, options.lease_duration) <= 0:
        parser.error("intervals and workers are above 0")
    return Settings(
        namespaces=tuple(options.namespace),
        prometheus=options.prometheus_url,
        mlflow=options.mlflow_url,
        slack=environment.get("SLIPWAY_SLACK_WEBHOOK_URL"),
        alertmanager=options.alertmanager_url,
        kubeconfig=options.kubeconfig,
        context=options.context,
        interval=options.interval,
        resync=options.resync,
        workers=options.workers,
        lookback=options.lookback,
        host=options.host,
        port=options.port,
        leader_election=not options.no_leader_election,
        lease_namespace=options.lease_namespace,
        lease_name=options.lease_name,
        lease_duration=options.lease_duration,
        identity=options.identity,
        git_repository=options.git_repository,
        git_host=options.git_host,
        git_api=options.git_api,
        git_branch=options.git_branch,
        git_directory=options.git_directory,
    )
