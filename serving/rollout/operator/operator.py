"""The operator's process: waits for the Lease, then watches, works its queue, and stops in order."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Iterator

import httpx

from slipway.contracts.errors import SlipwayError
from slipway.serving.promotion.from_cluster import propose_revert
from slipway.serving.promotion.keeper import ROLLED_BACK, GitKeeper
from slipway.serving.rollout.aligned_readings import AlignedReader
from slipway.serving.rollout.operator.aliases import MlflowAliases
from slipway.serving.rollout.operator.announcements import Announcer
from slipway.serving.rollout.operator.exported_metrics import OperatorMetrics
from slipway.serving.rollout.operator.health_server import serve_health
from slipway.serving.rollout.operator.home import RolloutHome
from slipway.serving.rollout.operator.kube import ROLLOUTS, ConflictError, Kube, connect
from slipway.serving.rollout.operator.lease import LeaderElection
from slipway.serving.rollout.operator.notifications import Notice, Notifier
from slipway.serving.rollout.operator.plane import Surroundings
from slipway.serving.rollout.operator.reconciler import Pace, Reconciler
from slipway.serving.rollout.operator.settings import Settings
from slipway.serving.rollout.operator.watching import watch
from slipway.serving.rollout.operator.work_queue import WorkQueue

log = logging.getLogger("slipway.operator")

_STUCK_SECONDS = 300.0
_LAST_LOOK_SECONDS = 20.0


class Operator:
    """One operator process.

    Args:
        settings: Flags and environment.
        kube: The cluster; by default what the settings name.
    """

    def __init__(self, settings: Settings, kube: Kube | None = None) -> None:
        self._settings = settings
        self._kube = kube or connect(kubeconfig=settings.kubeconfig, context=settings.context)
        self._queue = WorkQueue()
        # A client of its own: renewals must not wait behind looks, nor be refused for want of the Lease.
        self._election = LeaderElection(
            Kube(self._kube.configuration, timeout=max(1.0, settings.lease_duration / 3)),
            settings.lease_namespace,
            settings.lease_name,
            settings.identity,
            duration=settings.lease_duration,
        )
        self._metrics = OperatorMetrics(
            leads=lambda: self._leads, depth=lambda: len(self._queue), calls=lambda: self._kube.calls
        )
        self._notifier = Notifier(slack=settings.slack, alertmanager=settings.alertmanager)
        self._announcer = Announcer(self._kube, self._notifier)
        self._git = git_keeper(settings, self._notifier)
        surroundings = Surroundings(
            self._kube,
            httpx.Client(timeout=5.0, trust_env=False),
            settings.prometheus,
            MlflowAliases(settings.mlflow) if settings.mlflow else None,
            self._restored,
        )
        self._reconciler = Reconciler(
            surroundings,
            self._metrics,
            self._announcer,
            reader=lambda url: AlignedReader(url, lookback=settings.lookback),
            pace=Pace(settings.interval, settings.resync),
            seen=self._git.look if self._git is not None else lambda _: None,
        )
        self._working: dict[str, float] = {}
        self._watching = threading.Event()
        self._started = False

    @property
    def _leads(self) -> bool:
        if not self._settings.leader_election:
            return self._started
        return self._election.is_leader

    def run(self, stop: threading.Event) -> int:
        """Works until told to stop; returns the exit code: 0, or 1 where the Lease or the watches were lost."""
        settings = self._settings
        if settings.port:
            serve_health(self._metrics.registry, self._alive, self._ready, host=settings.host, port=settings.port)
        if settings.leader_election:
            log.info("%s waits for the Lease %s/%s", settings.identity, settings.lease_namespace, settings.lease_name)
            if not self._election.wait(stop):
                self._notifier.close()
                return 0
        log.info("%s leads", settings.identity)
        self._started = True
        self._kube.may_write = lambda: self._leads
        lost = threading.Event()
        with self._holding(stop, lost), self._watches(stop, lost), self._workers():
            next_list = 0.0
            while not stop.is_set():
                if time.monotonic() >= next_list:
                    # Watches may miss; a list does not. It is one call, and looks at rest are spread by the queue.
                    next_list = time.monotonic() + settings.resync
                    self._list()
                stop.wait(1.0)
        if self._git is not None:
            self._git.close()
        self._notifier.close()
        log.info("%s has stopped", settings.identity)
        return 1 if lost.is_set() else 0

    def _list(self) -> None:
        for namespace in self._settings.namespaces or (None,):
            try:
                for rollout in self._kube.list(ROLLOUTS, namespace):
                    self._due(rollout["metadata"]["namespace"], rollout["metadata"]["name"])
            except SlipwayError as error:
                log.warning("Rollouts could not be listed: %s", error)

    def _due(self, namespace: str, name: str) -> None:
        self._queue.add(f"{namespace}/{name}")

    @contextlib.contextmanager
    def _holding(self, stop: threading.Event, lost: threading.Event) -> Iterator[None]:
        """Renews the Lease meanwhile, and gives it back when everything else has stopped."""
        if not self._settings.leader_election:
            yield
            return
        done = threading.Event()

        def hold() -> None:
            if not self._election.hold(done):
                lost.set()
                stop.set()

        thread = threading.Thread(target=hold, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(5.0)
            if not lost.is_set():
                self._election.release()

    @contextlib.contextmanager
    def _watches(self, stop: threading.Event, lost: threading.Event) -> Iterator[None]:
        done = threading.Event()

        def run() -> None:
            try:
                watch(self._kube.configuration, self._settings.namespaces, self._due, ready=self._watching, stop=done)
            except Exception:  # whatever ends the watches, the process must not go on without them
                log.exception("the watches ended")
            finally:
                if not done.is_set():
                    lost.set()
                    stop.set()

        thread = threading.Thread(target=run, name="watches", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(10.0)

    @contextlib.contextmanager
    def _workers(self) -> Iterator[None]:
        threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            for number in range(self._settings.workers)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._queue.close()
            deadline = time.monotonic() + _LAST_LOOK_SECONDS
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            self._working[key] = time.monotonic()
            namespace, _, name = key.partition("/")
            try:
                self._queue.done(key, self._reconciler.look(namespace, name))
            except ConflictError as error:
                # Somebody was quicker: what is there now is looked at afresh.
                log.info("%s was changed meanwhile: %s", key, error)
                self._queue.done(key, 0.2)
            except SlipwayError as error:
                log.warning("%s: %s; again in %.1f s", key, error, self._queue.failed(key))
            except Exception:  # one Rollout that cannot be looked at must not stop the others
                log.exception("%s cannot be looked at; again in %.1f s", key, self._queue.failed(key))
            finally:
                self._working.pop(key, None)

    def _restored(self, home: RolloutHome, reason: str, message: str) -> None:
        self._metrics.restored(reason)
        self._announcer.restored(home, reason, message)

    def _alive(self) -> bool:
        oldest = min(list(self._working.values()), default=time.monotonic())
        return time.monotonic() - oldest < _STUCK_SECONDS

    def _ready(self) -> bool:
        return not self._started or self._watching.is_set()


def git_keeper(settings: Settings, notifier: Notifier) -> GitKeeper | None:
    """Returns what opens the revert pull requests of Rollouts that went back; None without a repository."""
    if settings.git_repository is None:
        return None
    propose = functools.partial(
        propose_revert,
        repository=settings.git_repository,
        host=settings.git_host,
        api=settings.git_api,
        branch=settings.git_branch,
        directory=settings.git_directory,
    )

    def told(name: str, text: str) -> None:
        log.info("%s: %s", name, text)
        notifier.tell(Notice(name, name.partition("/")[2], "git", text, ROLLED_BACK, "info"))

    return GitKeeper(propose, told)
