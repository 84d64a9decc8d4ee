"""The process that keeps a plane as it is desired: reads `desired.json`, acts, writes `observed.json`.

Should it die, everything that it started goes on serving; the next one takes the processes over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime

import psutil

from slipway.contracts.errors import ArtifactError, EnvironmentProblemError
from slipway.contracts.events import load_or_create_key
from slipway.contracts.files import exclusive_lock
from slipway.serving.local import programs
from slipway.serving.local.applied import AppliedRoutes, applied_routes
from slipway.serving.local.desired import Arm, Desired, read_desired
from slipway.serving.local.feature_loads import FeatureLoads, LoadState
from slipway.serving.local.gateway import ArmRoute, routes_configuration, write_routes
from slipway.serving.local.logs import rotate
from slipway.serving.local.observed import Observed, ServiceStatus, write_observed
from slipway.serving.local.ports import PortBook
from slipway.serving.local.process import ManagedProcess, ProcessSpec
from slipway.serving.local.records import (
    ProcessRecord,
    marked_processes,
    read_records,
    remove_record,
    start_time,
    stop_processes,
    write_record,
)
from slipway.serving.local.replicas import ArmRunner, Replica
from slipway.serving.local.scraping import ScrapeTarget, write_targets
from slipway.serving.local.services import ORDER, Services
from slipway.serving.local.settings import PlaneSettings
from slipway.serving.local.user_routing import UserRouting

TICK_SECONDS = 0.1
_PROBE_STARTING_SECONDS, _PROBE_READY_SECONDS = 0.15, 1.0
_OBSERVED_EVERY_SECONDS = 1.0
_ROTATE_EVERY_SECONDS = 5.0
_APPLIED_EVERY_SECONDS = 0.25


class Supervisor:
    """Runs one plane until it is asked to stop.

    Args:
        settings: The plane's settings.
    """

    def __init__(self, settings: PlaneSettings) -> None:
        self._settings = settings
        self._layout = settings.layout
        self._stop_asked = False
        self._arms: dict[str, ArmRunner] = {}
        self._desired = Desired()
        self._desired_stamp: tuple[int, int] | None = None
        self._applied: AppliedRoutes | None = None
        self._applied_future: Future[AppliedRoutes | None] | None = None
        self._next_applied = 0.0
        self._probes: dict[ManagedProcess, Future[bool]] = {}
        self._next_rotate = 0.0
        self._last_written: tuple[Observed, float] | None = None
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="probe")
        self._ports = PortBook(
            self._layout.root / "ports.json",
            fixed=settings.ports,
            preferred={"gateway": settings.gateway_port},
        )

    def run(self) -> None:
        """Holds the plane's lock, takes over what runs, and works until SIGTERM.

        Raises:
            LockHeldError: Another supervisor holds the plane.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ask_to_stop())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        holder = f"the supervisor of {self._settings.project!r}"
        with exclusive_lock(self._layout.lock, holder=holder, remedy="Use the running plane, or stop it: slipway down"):
            self._prepare()
            while not self._stop_asked:
                began = time.monotonic()
                try:
                    self._tick()
                except Exception:  # noqa: BLE001 - what serves must go on serving, whatever one look at it came to
                    self._say(f"unexpected, going on:\n{traceback.format_exc()}")
                    time.sleep(1.0)
                time.sleep(max(0.01, TICK_SECONDS - (time.monotonic() - began)))
            self._shut_down()

    def _ask_to_stop(self) -> None:
        self._stop_asked = True

    def _say(self, line: str) -> None:
        print(f"{datetime.now().astimezone().isoformat(timespec='milliseconds')} {line}", flush=True)

    # Start

    def _prepare(self) -> None:
        pid = os.getpid()
        record = ProcessRecord(name="supervisor", pid=pid, started_at=start_time(pid) or time.time(), fingerprint="")
        write_record(self._layout.root, record)
        load_or_create_key(self._layout.key_file)
        self._services = Services(self._settings, self._ports, self._say)
        self._features = FeatureLoads(self._layout, self._settings.project, self._say)
        self._users = UserRouting(self._settings, self._ports, self._say)
        self._read_desired()
        self._users.prepare(self._desired)
        self._take_over()
        self._write_routes(self._routes())
        self._write_targets()
        for name in ORDER:
            process = self._services.processes.get(name)
            if process is not None and not process.running:
                process.start()

    def _take_over(self) -> None:
        adopted: set[int] = set()
        for record in read_records(self._layout.processes):
            process = self._services.processes.get(record.name) or self._users.processes.get(record.name)
            arm = self._desired.arm(record.arm) if record.arm else None
            if process is not None and process.adopt(record):
                adopted.add(record.pid)
            elif arm is not None and record.replica is not None:
                replica = self._make_replica(arm, record.replica)
                if replica.process.adopt(record):
                    self._arms.setdefault(arm.name, ArmRunner(arm, self._make_replica)).adopt(record.replica, replica)
                    adopted.add(record.pid)
            if record.pid not in adopted:
                remove_record(self._layout.processes, record.name)
        # What is left belongs to this plane, but is not wanted as it is.
        strangers = [one for one in marked_processes(self._layout.root) if not self._belongs(one, adopted)]
        for stranger in strangers:
            self._say(f"process {stranger.pid} of an earlier supervisor is not wanted any more: stopping it")
        stop_processes(strangers, grace_seconds=self._settings.grace_seconds)
        # Routes are written from what is ready: ask before the first write, or a working plane would lose its routes.
        for process in self._processes():
            if process.running:
                process.heard(process.spec.ready())

    @staticmethod
    def _belongs(process: psutil.Process, adopted: set[int]) -> bool:
        """Returns whether a process or one of its parents was taken over (workers of a predictor, for example)."""
        with contextlib.suppress(psutil.Error):
            return any(one.pid in adopted for one in (process, *process.parents()))
        return False

    def _make_replica(self, arm: Arm, number: int) -> Replica:
        name = f"{arm.name}-{number}"

        def make_spec(running: bool) -> ProcessSpec:
            http, grpc, metrics = (
                self._ports.claim(f"{name}/{part}", in_use=running) for part in ("http", "grpc", "metrics")
            )
            return programs.predictor_spec(
                self._settings,
                arm,
                number,
                name=name,
                http=http,
                grpc=grpc,
                metrics=metrics,
                redis=self._ports["redis"],
                collector=self._services.collector_port,
            )

        process = ManagedProcess(make_spec, self._layout, grace_seconds=self._settings.grace_seconds, say=self._say)
        return Replica(process, drain_seconds=self._settings.drain_seconds)

    # Work

    def _tick(self) -> None:
        now = time.monotonic()
        self._read_desired()
        for process in self._services.processes.values():
            process.poll()
        self._probe(now)
        self._look_at_gateway(now)
        self._step_arms()
        self._users.step(self._desired, self._applied)
        routes = self._routes()
        if self._write_routes(routes):
            self._next_applied = 0.0
        self._write_targets()
        self._write_observed(now)
        if now >= self._next_rotate:
            self._next_rotate = now + _ROTATE_EVERY_SECONDS
            for path in self._layout.logs.glob("*.log"):
                rotate(path, maximum_bytes=self._settings.log_bytes, backups=self._settings.log_backups)

    def _read_desired(self) -> None:
        try:
            status = self._layout.desired.stat()
            stamp = (status.st_ino, status.st_mtime_ns)
            if stamp == self._desired_stamp:
                return
            desired = read_desired(self._settings.directory)
        except FileNotFoundError:
            return
        except ArtifactError as error:
            self._say(f"desired state refused, going on with the last one: {error}")
            self._desired_stamp = stamp
            return
        self._desired_stamp = stamp
        if desired != self._desired:
            self._say(f"desired: {_in_words(desired)}")
        self._desired = desired

    def _step_arms(self) -> None:
        wanted = {arm.name: arm for arm in self._desired.arms}
        for name, arm in wanted.items():
            runner = self._arms.get(name)
            if runner is None:
                runner = self._arms[name] = ArmRunner(arm, self._make_replica)
            elif runner.arm != arm or runner.retired:
                # An arm that leaves goes completely before one of its name comes back.
                if runner.retired or runner.arm.model_copy(update={"replicas": arm.replicas}) != arm:
                    runner.retire()
                else:
                    runner.want(arm)
        read = {arm.features for arm in wanted.values() if arm.features is not None}
        self._features.forget_others(read)
        for name, runner in list(self._arms.items()):
            if name not in wanted:
                runner.retire()
            runner.step(may_start=self._may_start(runner), applied=self._applied)
            if runner.gone:
                del self._arms[name]
                self._ports.release(f"{name}-")
                self._say(f"{name}: gone")

    def _may_start(self, runner: ArmRunner) -> bool:
        if runner.retired or runner.arm.features is None:
            return True
        features = runner.arm.features
        state = self._features.ensure(features, self._services.redis_url, self._services.redis_generation)
        runner.problem = self._features.problem(features)
        runner.refused = state is LoadState.REFUSED
        return state in (LoadState.DONE, LoadState.WITHOUT)

    def _routes(self) -> list[ArmRoute]:
        desired = self._desired
        return [runner.route(desired.weight(name), desired.mirror(name)) for name, runner in sorted(self._arms.items())]

    def _write_routes(self, routes: list[ArmRoute]) -> bool:
        port = self._services.collector_port
        configuration = routes_configuration(
            routes,
            collector_url=None if port is None else f"http://127.0.0.1:{port}",
            maximum_body=self._settings.maximum_body,
            assignment_urls=self._users.urls(),
            assigned=bool(self._users.processes),
        )
        return write_routes(self._layout.gateway / "routes" / "routes.yaml", configuration)

    def _write_targets(self) -> None:
        targets = [ScrapeTarget("gateway", f"127.0.0.1:{self._ports['gateway-internal']}")]
        if programs.COLLECTOR in self._services.processes:
            targets.append(ScrapeTarget("collector", f"127.0.0.1:{self._ports['collector-metrics']}"))
        if programs.CONTROLLER in self._services.processes:
            targets.append(ScrapeTarget("controller", f"127.0.0.1:{self._ports['controller-metrics']}"))
        targets += [ScrapeTarget("routers", address) for address in self._users.metrics_addresses]
        for name, runner in sorted(self._arms.items()):
            for number, replica in sorted(runner.replicas.items()):
                labels = {"arm": name, "model": runner.arm.model, "version": runner.arm.version}
                labels["replica"] = str(number)
                targets.append(ScrapeTarget("predictors", replica.metrics_address, tuple(labels.items())))
        write_targets(self._layout.prometheus / "targets", targets)

    # Looking

    def _processes(self) -> list[ManagedProcess]:
        replicas = [replica.process for runner in self._arms.values() for replica in runner.replicas.values()]
        return [*self._services.processes.values(), *self._users.processes.values(), *replicas]

    def _probe(self, now: float) -> None:
        for process, future in list(self._probes.items()):
            if future.done():
                del self._probes[process]
                process.heard(future.exception() is None and future.result())
                process.next_probe_at = now + (_PROBE_READY_SECONDS if process.ready else _PROBE_STARTING_SECONDS)
        for process in self._processes():
            if process.running and process not in self._probes and now >= process.next_probe_at:
                self._probes[process] = self._pool.submit(process.spec.ready)

    def _look_at_gateway(self, now: float) -> None:
        if self._applied_future is not None and self._applied_future.done():
            self._applied, self._applied_future = self._applied_future.result(), None
            self._next_applied = now + _APPLIED_EVERY_SECONDS
        if self._applied_future is None and now >= self._next_applied:
            self._applied_future = self._pool.submit(applied_routes, self._services.internal_url)

    def _write_observed(self, now: float) -> None:
        applied = self._applied or AppliedRoutes()
        desired = self._desired
        processes = self._services.processes | self._users.processes
        observed = Observed(
            arms={
                name: runner.status(applied.weights.get(name, 0), applied.mirrors.get(name, 0))
                for name, runner in sorted(self._arms.items())
            },
            services={name: self._service_status(one) for name, one in processes.items()},
            endpoints=self._services.endpoints(),
            weights_desired={arm.name: desired.weight(arm.name) for arm in desired.arms},
            mirrors_desired={name: percent for name, percent in desired.mirrors.items() if percent},
            assignment_desired="user" if desired.draws_users else "request",
            assignment_applied=None if self._applied is None else self._applied.assignment,
            supervisor_pid=os.getpid(),
        )
        if self._last_written is not None:
            last, at = self._last_written
            if observed == last and now - at < _OBSERVED_EVERY_SECONDS:
                return
        self._last_written = (observed, now)
        try:
            write_observed(self._settings.directory, observed.model_copy(update={"updated_at": time.time()}))
        except EnvironmentProblemError as error:
            self._say(str(error))

    @staticmethod
    def _service_status(process: ManagedProcess) -> ServiceStatus:
        return ServiceStatus(
            pid=process.pid,
            ready=process.ready,
            state=process.state,
            restarts=process.restarts,
            crash_looping=process.crash_looping,
            last_exit=process.last_exit,
        )

    # End

    def _shut_down(self) -> None:
        """Stops everything, what takes requests first; the gateway finishes those in flight."""
        self._say("stopping")
        services = self._services.processes
        self._features.stop()
        stages: list[list[ManagedProcess]] = [
            [services[name] for name in (programs.CONTROLLER,) if name in services],
            [services[programs.GATEWAY]],
            [*self._users.processes.values()],
            [replica.process for runner in self._arms.values() for replica in runner.replicas.values()],
            [services[name] for name in (programs.COLLECTOR,) if name in services],
            [services[programs.PROMETHEUS], services[programs.REDIS]],
        ]
        for stage in stages:
            self._stop_all(stage)
        left = marked_processes(self._layout.root)
        stop_processes(left, grace_seconds=1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)
        write_observed(self._settings.directory, Observed(updated_at=0.0))
        remove_record(self._layout.root, "supervisor")
        self._say("stopped")

    @staticmethod
    def _stop_all(processes: list[ManagedProcess]) -> None:
        for process in processes:
            process.stop()
        while any(process.running for process in processes):
            for process in processes:
                process.poll()
            time.sleep(0.02)


def _in_words(desired: Desired) -> str:
    parts = []
    for arm in desired.arms:
        mirror = desired.mirror(arm.name)
        parts.append(f"{arm.name} at {desired.weight(arm.name)}" + (f", copies of {mirror} %" if mirror else ""))
    return ", ".join(parts) + (", by user" if desired.draws_users else "")
