"""The programs of the plane and how each is started."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from slipway.contracts.errors import EnvironmentProblemError
from slipway.serving.local.desired import Arm
from slipway.serving.local.probes import answers_ok, redis_answers
from slipway.serving.local.process import ProcessSpec
from slipway.serving.local.settings import PlaneSettings

REDIS, PROMETHEUS, GATEWAY, COLLECTOR, CONTROLLER = "redis", "prometheus", "gateway", "collector", "controller"
ROUTER = "router"

REMEDIES = {
    "redis-server": "apt-get install redis-server (or: conda install -c conda-forge redis-server)",
    "prometheus": "apt-get install prometheus (or a release from https://prometheus.io/download)",
    "traefik": "pip install 'slipway[local]'",
}


def find_program(name: str) -> str:
    """Returns the path of a program, from PATH or from beside this Python.

    Raises:
        EnvironmentProblemError: It is not installed; says how to get it.
    """
    beside = Path(sys.prefix) / "bin" / name
    found = shutil.which(name) or (str(beside) if beside.exists() else None)
    if found is None:
        raise EnvironmentProblemError(f"the program {name} is not installed", remedy=f"Install it: {REMEDIES[name]}")
    return found


def has_module(name: str) -> bool:
    """Returns whether `python -m name` could run, without importing it."""
    try:
        return importlib.util.find_spec(f"{name}.__main__") is not None
    except ModuleNotFoundError:
        return False


def redis_spec(settings: PlaneSettings, port: int) -> ProcessSpec:
    """Redis in memory only: what it holds is written again from the features artifact after every start."""
    layout = settings.layout
    layout.redis.mkdir(parents=True, exist_ok=True)
    command = (
        find_program("redis-server"),
        *("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"),
        *("--maxmemory-policy", "noeviction", "--dir", str(layout.redis), "--daemonize", "no"),
        # A new title is written over the environment, and with it over the mark of the plane.
        *("--set-proc-title", "no"),
    )
    return ProcessSpec(REDIS, command, layout.root, lambda: redis_answers(port), ports={"redis": port})


def prometheus_spec(settings: PlaneSettings, port: int, configuration: Path) -> ProcessSpec:
    """Prometheus on loopback with its data beside the plane's other files."""
    layout = settings.layout
    command = (
        find_program("prometheus"),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={layout.prometheus / 'data'}",
        "--storage.tsdb.retention.time=15d",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )
    ready = f"http://127.0.0.1:{port}/-/ready"
    return ProcessSpec(PROMETHEUS, command, layout.root, lambda: answers_ok(ready), ports={"prometheus": port})


def gateway_spec(
    settings: PlaneSettings, *, public: int, internal: int, assigned: int, grpc: int, configuration: Path
) -> ProcessSpec:
    """Traefik with the given ports."""
    command = (find_program("traefik"), f"--configFile={configuration}")
    ready = f"http://127.0.0.1:{internal}/ping"
    ports = {"gateway": public, "gateway-internal": internal, "gateway-assigned": assigned, "gateway-grpc": grpc}
    # The ports stand in the configuration file: named here too, so that changed ports make another process of it.
    environment = {"SLIPWAY_GATEWAY_PORTS": f"{public},{internal},{assigned},{grpc}"}
    return ProcessSpec(
        GATEWAY, command, settings.layout.root, lambda: answers_ok(ready), environment=environment, ports=ports
    )


def collector_spec(settings: PlaneSettings, port: int, metrics_port: int, redis_url: str) -> ProcessSpec:
    """The process that takes predictions and feedback and joins them."""
    layout = settings.layout
    command = (
        *(sys.executable, "-m", "slipway.serving.capture"),
        *("--port", str(port), "--metrics-port", str(metrics_port), "--key-file", str(layout.key_file)),
        *("--wait", f"{settings.feedback_wait:g}", "--expiry", f"{settings.request_expiry:g}"),
        *("--directory", str(layout.feedback), "--retention-days", f"{settings.capture_retention_days:g}"),
        *("--redis", redis_url, "--project", settings.project),
        *(f"--value={kind}={maximum!r}" for kind, maximum in sorted(settings.feedback_values.items())),
    )
    ready = f"http://127.0.0.1:{metrics_port}/metrics"
    ports = {"collector": port, "collector-metrics": metrics_port}
    return ProcessSpec(COLLECTOR, command, settings.directory, lambda: answers_ok(ready), ports=ports)


def router_spec(settings: PlaneSettings, *, name: str, port: int, metrics_port: int, upstream: str) -> ProcessSpec:
    """A process that draws an arm for each user and hands the request on to the gateway."""
    command = (
        *(sys.executable, "-m", "slipway.serving.router"),
        *("--port", str(port), "--upstream", upstream, "--assignment", str(settings.layout.assignment)),
        *("--metrics-port", str(metrics_port)),
    )
    ready = f"http://127.0.0.1:{port}/-/ready"
    ports = {"http": port, "metrics": metrics_port}
    return ProcessSpec(name, command, settings.directory, lambda: answers_ok(ready), ports=ports)


def controller_spec(settings: PlaneSettings, metrics_port: int) -> ProcessSpec:
    """The process that carries out rollouts; living counts as ready, since its port serves metrics alone."""
    command = (
        *(sys.executable, "-m", "slipway.serving.rollout", "--project", str(settings.directory)),
        *("--metrics-port", str(metrics_port)),
    )
    ports = {"controller-metrics": metrics_port}
    return ProcessSpec(CONTROLLER, command, settings.directory, lambda: True, ports=ports)


def predictor_spec(
    settings: PlaneSettings,
    arm: Arm,
    replica: int,
    *,
    name: str,
    http: int,
    grpc: int,
    metrics: int,
    redis: int,
    collector: int | None,
) -> ProcessSpec:
    """One process of an arm."""
    layout = settings.layout
    command = [
        *settings.predictor_command,
        *("--bundle", str(arm.bundle), "--model", arm.model, "--version", arm.version, "--replica", str(replica)),
        *("--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics)),
        *("--redis", f"redis://127.0.0.1:{redis}/0", "--feature-project", settings.project),
        *("--key-file", str(layout.key_file), "--maximum-body", str(settings.maximum_body)),
        *("--maximum-in-flight", str(settings.maximum_in_flight)),
    ]
    if collector is not None:
        command += ["--collector", f"http://127.0.0.1:{collector}"]
    if arm.predictor is not None:
        command += ["--predictor", arm.predictor]
    ready = f"http://127.0.0.1:{http}/v2/health/ready"
    return ProcessSpec(
        name,
        tuple(command),
        settings.directory,
        lambda: answers_ok(ready),
        # The processes share the cores already: threads inside each would only contend.
        environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | arm.environment,
        ports={"http": http, "grpc": grpc, "metrics": metrics},
        arm=arm.name,
        replica=replica,
    )
