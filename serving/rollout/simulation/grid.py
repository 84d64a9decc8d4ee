"""Many cells, in two processes, with every peer calibrated to take back as few equal candidates as the policy does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from slipway.serving.rollout.simulation.cells import METHODS, Cell, CellSpec, Part, simulate_chunk, summarise
from slipway.serving.rollout.simulation.effects import NO_EFFECT
from slipway.serving.rollout.simulation.endings import Ending

T = TypeVar("T")
R = TypeVar("R")

PROCESSES = 2
LEAST_RATE = 0.001
"""Peers are not calibrated to fewer false rollbacks than this: a thousand rollouts cannot tell."""
_HALVINGS = 12
_RANGES = {"flagger": (-4.0, 12.0), "argo-rollouts": (-4.0, 12.0), "z-test": (0.0, 12.0)}
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Progress = Callable[[int, int], None]
"""Called with the number of parts done and of all parts."""


@dataclass(frozen=True)
class Calibration:
    """What a peer was set to at one kind of traffic.

    Args:
        method: Which peer.
        traffic: Kind of traffic.
        requests_per_second: Of both arms together.
        setting: Standard errors between stable's true rate and the limit; the critical value of a z-test.
        target: Share of equal candidates that it may take back.
        reached: The share that it took back while calibrating.
    """

    method: str
    traffic: str
    requests_per_second: float
    setting: float
    target: float
    reached: float


class Grid:
    """Runs cells and calibrations.

    Args:
        processes: How many at once; 1 stays in this one.
        progress: Is told how far it is.
    """

    def __init__(self, processes: int = PROCESSES, progress: Progress | None = None) -> None:
        self._processes = max(1, min(processes, os.cpu_count() or 1))
        self._progress = progress

    def run(self, specs: Sequence[CellSpec]) -> list[Cell]:
        """Returns a summary for each cell, in order."""
        tasks = [(index, task) for index, spec in enumerate(specs) for task in spec.chunks()]
        parts: list[list[Part]] = [[] for _ in specs]
        self._tell(0, len(tasks))
        for done, ((index, _), part) in enumerate(zip(tasks, self._parts([task for _, task in tasks]), strict=True)):
            parts[index].append(part)
            self._tell(done + 1, len(tasks))
        return [summarise(spec, found) for spec, found in zip(specs, parts, strict=True)]

    def calibrate(self, wanted: Sequence[tuple[CellSpec, float]]) -> list[Calibration]:
        """Returns the strictest settings at which peers take back no more equal candidates than their target.

        Args:
            wanted: A cell of a peer, and the share of equal candidates that it may take back.
        """
        tasks = [(replace(spec, effect=NO_EFFECT, checked=0), target) for spec, target in wanted]
        self._tell(0, len(tasks))
        found = []
        for done, result in enumerate(self._map(_calibrated, tasks)):
            found.append(result)
            self._tell(done + 1, len(tasks))
        return found

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)

    def _parts(self, tasks: list[tuple[CellSpec, int]]) -> Iterator[Part]:
        return self._map(simulate_chunk, tasks)

    def _map(self, function: Callable[[T], R], tasks: list[T]) -> Iterator[R]:
        if self._processes == 1 or len(tasks) < 2:
            yield from map(function, tasks)
            return
        with _one_thread_each():
            pool = ProcessPoolExecutor(self._processes, multiprocessing.get_context("spawn"))
            futures: list[Future[R]] = [pool.submit(function, task) for task in tasks]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def peers_of(methods: Sequence[str]) -> list[str]:
    """Returns the methods that are not Slipway's own, in the order of METHODS."""
    return [method for method in METHODS if method in methods and method != "slipway"]


def _calibrated(task: tuple[CellSpec, float]) -> Calibration:
    spec, target = task
    low, high = _RANGES[spec.method]
    reached = _false_rollbacks(replace(spec, setting=high))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rate = _false_rollbacks(replace(spec, setting=middle))
        if rate <= target:
            high, reached = middle, rate
        else:
            low = middle
    return Calibration(spec.method, spec.traffic_name, spec.traffic.requests_per_second, high, target, reached)


def _false_rollbacks(spec: CellSpec) -> float:
    parts = [simulate_chunk(task).rollouts for task in spec.chunks()]
    runs = sum(len(part.ending) for part in parts)
    return sum(float((part.ending == Ending.HARM).sum()) for part in parts) / runs


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Lets processes that start in here use one thread each for products of matrices."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
