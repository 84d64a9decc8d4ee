"""One arm's processes: brought to the wanted number, and taken out of service without losing a request.

A process leaves in this order: out of the gateway's routes, its requests in flight at zero, SIGTERM, and SIGKILL only
after the grace.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from slipway.serving.local.applied import AppliedRoutes
from slipway.serving.local.desired import Arm
from slipway.serving.local.gateway import ArmRoute
from slipway.serving.local.observed import ArmStatus, ReplicaStatus
from slipway.serving.local.probes import requests_in_flight
from slipway.serving.local.process import ManagedProcess

# Longest wait for the gateway's word that it has let go; after it the gateway is taken to be gone.
_LEAVING_SECONDS = 5.0
_BETWEEN_LOOKS_SECONDS = 0.1
_QUIET_LOOKS = 2


class Phase(Enum):
    """Where a process stands between serving and gone."""

    SERVING = "serving"
    LEAVING = "leaving"
    FINISHING = "finishing"
    STOPPING = "stopping"


class Replica:
    """One predictor process.

    Args:
        process: The supervised process.
        drain_seconds: Longest wait for its requests in flight.
    """

    def __init__(self, process: ManagedProcess, *, drain_seconds: float) -> None:
        self.process = process
        self.phase = Phase.SERVING
        self._drain_seconds = drain_seconds
        self._deadline = 0.0
        self._next_look = 0.0
        self._quiet_looks = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.process.spec.ports['http']}"

    @property
    def grpc_url(self) -> str:
        return f"h2c://127.0.0.1:{self.process.spec.ports['grpc']}"

    @property
    def metrics_address(self) -> str:
        return f"127.0.0.1:{self.process.spec.ports['metrics']}"

    @property
    def routable(self) -> bool:
        """Whether requests should be sent to it."""
        return self.phase is Phase.SERVING and self.process.running and self.process.ready

    @property
    def gone(self) -> bool:
        return self.phase is Phase.STOPPING and not self.process.running

    def retire(self) -> None:
        """Begins to take the process out of service; nothing happens the second time."""
        if self.phase is Phase.SERVING:
            self.phase = Phase.LEAVING
            self._deadline = time.monotonic() + _LEAVING_SECONDS

    def step(self, applied: AppliedRoutes | None) -> None:
        """Goes on with taking the process out of service.

        Args:
            applied: What the gateway said last, None when it does not answer.
        """
        now = time.monotonic()
        if self.phase is Phase.SERVING or self.phase is Phase.STOPPING:
            return
        if not self.process.running:
            self._stop()
        elif self.phase is Phase.LEAVING:
            routed = applied is None or any(self.url in urls for urls in applied.servers.values())
            if not routed or now >= self._deadline:
                self.phase = Phase.FINISHING
                self._deadline = now + self._drain_seconds
                self._next_look = now
        elif now >= self._next_look:
            self._next_look = now + _BETWEEN_LOOKS_SECONDS
            in_flight = requests_in_flight(f"http://{self.metrics_address}/metrics", timeout=0.5)
            # One zero may fall between two requests of a connection that the gateway is just letting go.
            self._quiet_looks = self._quiet_looks + 1 if in_flight == 0 else 0
            if self._quiet_looks >= _QUIET_LOOKS or now >= self._deadline:
                self._stop()

    def status(self) -> ReplicaStatus:
        """Returns the process as the observed state shows it."""
        return ReplicaStatus(
            name=self.process.name,
            pid=self.process.pid,
            url=self.url,
            metrics_url=f"http://{self.metrics_address}/metrics",
            grpc=self.grpc_url.removeprefix("h2c://"),
            state=self.process.state if self.phase is Phase.SERVING else "draining",
            restarts=self.process.restarts,
            last_exit=self.process.last_exit,
        )

    def _stop(self) -> None:
        self.phase = Phase.STOPPING
        self.process.stop()


class ArmRunner:
    """The processes of one arm.

    Args:
        arm: What is wanted.
        make_replica: Returns the not yet started process of a number.
    """

    def __init__(self, arm: Arm, make_replica: Callable[[Arm, int], Replica]) -> None:
        self.arm = arm
        self._make_replica = make_replica
        self.replicas: dict[int, Replica] = {}
        self.retired = False
        self.problem: str | None = None
        self.refused = False

    def adopt(self, number: int, replica: Replica) -> None:
        """Takes over a process that runs already."""
        self.replicas[number] = replica

    def want(self, arm: Arm) -> None:
        """Takes a new wish for the arm; other replicas or another bundle are brought about step by step."""
        self.arm = arm
        self.retired = False

    def retire(self) -> None:
        """Takes the whole arm out of service."""
        self.retired = True
        for replica in self.replicas.values():
            replica.retire()

    @property
    def gone(self) -> bool:
        return self.retired and not self.replicas

    def step(self, *, may_start: bool, applied: AppliedRoutes | None) -> None:
        """Brings the processes one step closer to what is wanted.

        Args:
            may_start: Whether what the arm needs (its features) is there; processes that run are not concerned.
            applied: What the gateway said last.
        """
        for number, replica in list(self.replicas.items()):
            replica.process.poll()
            replica.step(applied)
            if replica.gone:
                del self.replicas[number]
        if self.retired:
            return
        for number, replica in self.replicas.items():
            if number >= self.arm.replicas:
                replica.retire()
        if may_start:
            for number in range(self.arm.replicas):
                if number not in self.replicas:
                    replica = self.replicas[number] = self._make_replica(self.arm, number)
                    replica.process.start()

    def route(self, weight: int, mirror: int = 0) -> ArmRoute:
        """Returns where the arm's requests go.

        An arm without a process that can take them has no share, but keeps its service: Traefik forgets the counts of a
        service that leaves its configuration, and with them the evidence of how the arm failed.
        """
        able = [replica for _, replica in sorted(self.replicas.items()) if replica.routable]
        if self.retired or not able:
            return ArmRoute(self.arm.name, None, ())
        urls, grpc_urls = tuple(one.url for one in able), tuple(one.grpc_url for one in able)
        return ArmRoute(self.arm.name, weight, urls, grpc_urls, mirror)

    def status(self, weight_applied: int, mirror_applied: int = 0) -> ArmStatus:
        """Returns the arm as the observed state shows it."""
        processes = [replica.process for replica in self.replicas.values()]
        serving = [replica for replica in self.replicas.values() if replica.phase is Phase.SERVING]
        ready = sum(replica.routable for replica in serving)
        last_exits = [process.last_exit for process in processes if process.last_exit is not None]
        return ArmStatus(
            ready=ready,
            total=0 if self.retired else self.arm.replicas,
            restarts=sum(process.restarts for process in processes),
            crash_looping=any(process.crash_looping for process in processes),
            last_exit=last_exits[-1] if last_exits else None,
            weight_applied=weight_applied,
            mirror_applied=mirror_applied,
            state=self._state(ready),
            problem=self.problem,
            replicas=tuple(replica.status() for _, replica in sorted(self.replicas.items())),
        )

    def _state(self, ready: int) -> str:
        if self.retired:
            return "draining"
        if self.refused and not self.replicas:
            return "failed"
        if ready >= self.arm.replicas:
            return "serving"
        if ready > 0:
            return "degraded"
        was_ready = any(replica.process.was_ready or replica.process.restarts for replica in self.replicas.values())
        return "down" if was_ready else "pending"
