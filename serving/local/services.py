"""The plane's processes that are no predictors: online store, metrics, gateway, collector and rollout controller."""

from __future__ import annotations

from collections.abc import Callable

from slipway.serving.local import programs
from slipway.serving.local.gateway import static_configuration, write_static
from slipway.serving.local.ports import PortBook
from slipway.serving.local.process import ManagedProcess, ProcessSpec
from slipway.serving.local.scraping import prometheus_configuration, write_configuration
from slipway.serving.local.settings import PlaneSettings

# The order in which they are started, and stopped backwards.
ORDER = (programs.REDIS, programs.PROMETHEUS, programs.COLLECTOR, programs.GATEWAY, programs.CONTROLLER)


LONGEST_BACKOFF_SECONDS = 2.0
"""Shorter than a predictor's: without gateway, readings or controller, a bad version is not taken back in time."""


class Services:
    """Makes and holds these processes.

    Args:
        settings: The plane's settings.
        ports: The plane's ports.
        say: Receives one line about everything that happens.
    """

    def __init__(self, settings: PlaneSettings, ports: PortBook, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._ports = ports
        makers: dict[str, Callable[[bool], ProcessSpec]] = {
            programs.REDIS: self._redis,
            programs.PROMETHEUS: self._prometheus,
            programs.COLLECTOR: self._collector,
            programs.GATEWAY: self._gateway,
            programs.CONTROLLER: lambda running: programs.controller_spec(
                settings, ports.claim("controller-metrics", in_use=running)
            ),
        }
        if not (settings.collector and programs.has_module("slipway.serving.capture")):
            del makers[programs.COLLECTOR]
        if not (settings.controller and programs.has_module("slipway.serving.rollout")):
            del makers[programs.CONTROLLER]
        # A restarted controller or collector loses nothing; a gateway gets the time to finish its requests.
        self.processes = {
            name: ManagedProcess(
                makers[name],
                settings.layout,
                grace_seconds=settings.grace_seconds,
                say=say,
                longest_backoff_seconds=LONGEST_BACKOFF_SECONDS,
            )
            for name in ORDER
            if name in makers
        }

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self._ports['redis']}/0"

    @property
    def internal_url(self) -> str:
        """The gateway's address for its API, and for requests to a named arm."""
        return f"http://127.0.0.1:{self._ports['gateway-internal']}"

    @property
    def collector_port(self) -> int | None:
        return self._ports["collector"] if programs.COLLECTOR in self.processes else None

    @property
    def redis_generation(self) -> tuple[int, float] | None:
        """Identifies the life of the Redis process that holds the features now; None while it is not ready."""
        redis = self.processes[programs.REDIS]
        return (redis.pid, redis.started_at) if redis.pid is not None and redis.ready else None

    def endpoints(self) -> dict[str, str]:
        """Returns the addresses that others use, by name."""
        ports = self._ports
        endpoints = {
            "gateway": f"http://127.0.0.1:{ports['gateway']}",
            "grpc": f"127.0.0.1:{ports['gateway-grpc']}",
            "prometheus": f"http://127.0.0.1:{ports['prometheus']}",
            "redis": self.redis_url,
            "traefik_api": f"{self.internal_url}/api",
            "traefik_metrics": f"{self.internal_url}/metrics",
            "direct": self.internal_url,
        }
        if self.collector_port is not None:
            endpoints["collector"] = f"http://127.0.0.1:{self.collector_port}"
        return endpoints

    def _redis(self, running: bool) -> ProcessSpec:
        return programs.redis_spec(self._settings, self._ports.claim("redis", in_use=running))

    def _prometheus(self, running: bool) -> ProcessSpec:
        folder = self._settings.layout.prometheus
        path = folder / "prometheus.yml"
        configuration = prometheus_configuration(
            scrape_interval=self._settings.scrape_interval, targets=folder / "targets"
        )
        write_configuration(path, configuration)
        return programs.prometheus_spec(self._settings, self._ports.claim("prometheus", in_use=running), path)

    def _collector(self, running: bool) -> ProcessSpec:
        return programs.collector_spec(
            self._settings,
            self._ports.claim("collector", in_use=running),
            self._ports.claim("collector-metrics", in_use=running),
            self.redis_url,
        )

    def _gateway(self, running: bool) -> ProcessSpec:
        folder = self._settings.layout.gateway
        public, internal, assigned, grpc = (
            self._ports.claim(name, in_use=running)
            for name in ("gateway", "gateway-internal", "gateway-assigned", "gateway-grpc")
        )
        path = folder / "traefik.yaml"
        # Traefik serves without any routes, for ever, when the folder that it should watch is not there at its start.
        (folder / "routes").mkdir(parents=True, exist_ok=True)
        configuration = static_configuration(
            public=public, internal=internal, assigned=assigned, grpc=grpc, routes=folder / "routes" / "routes.yaml"
        )
        write_static(path, configuration)
        return programs.gateway_spec(
            self._settings, public=public, internal=internal, assigned=assigned, grpc=grpc, configuration=path
        )
