"""What sticky assignment and a hundred A/B tests at once cost, and how many of their discoveries are false.

Router: a client with 1 and with 16 connections in a closed loop, and at 500 requests/s, straight to a server that
answers at once, and through the router, in turns. Assignment: one user in all of 100 layers, a million users in one.
Analysis: 100 experiments of 14 daily windows. False discoveries: batches of 100 experiments on the same users, 80
without any effect and 20 with odds ratios from 1.1 to 1.3; users differ in how often they click, each is split anew in
every layer, and the table is looked at every day until it holds a discovery (and, beside that, at the end of the 14
days only). The usual practices stand beside e-BH: a z-test per experiment, and Benjamini and Hochberg's procedure.
Prints one JSON object. Run: python benchmarks/experiments.py [--batches 200] [--seconds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import uvloop
from numpy.typing import NDArray
from scipy.stats import norm

from slipway.contracts.files import write_json
from slipway.serving.experiments.analysis import ArmCounts, Window, analyse
from slipway.serving.experiments.discoveries import e_bh
from slipway.serving.experiments.evidence import PairCounts, log_e_value, log_sums_of
from slipway.serving.experiments.layers import Experiment, Layers
from slipway.serving.router.assignment import Assignment

HALVES = {"control": 50.0, "candidate": 50.0}
EXPERIMENTS, TRUE_EFFECTS, DAYS, USERS_PER_DAY, FDR = 100, 20, 14, 2000, 0.05
Counts = NDArray[np.int64]


# ------------------------------------------------------------------------------------------------------- router


class Server(asyncio.Protocol):
    """Answers each request at once with 400 bytes."""

    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 400\r\n\r\n" + b"x" * 400

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            at = self._buffer.find(b"content-length: ", 0, end) + 16
            whole = end + 4 + int(self._buffer[at : self._buffer.index(b"\r", at)])
            if len(self._buffer) < whole:
                return
            self._buffer = self._buffer[whole:]
            self._transport.write(self.answer)


class Client(asyncio.Protocol):
    """Sends one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._answer = b""

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._answer.endswith(b"x" * 400):
            assert self._answer.startswith(b"HTTP/1.1 200")
            self._answer = b""
            self._done.set_result(None)

    async def ask(self, user: int) -> float:
        """Returns the seconds that the answer took."""
        body = b'{"instances": [{"user": "%d", "k": 10}]}' % user
        self._done = asyncio.get_running_loop().create_future()
        started = time.perf_counter()
        self._transport.write(
            b"POST /v1/models/films:predict HTTP/1.1\r\nhost: films\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        await self._done
        return time.perf_counter() - started


async def load(port: int, connections: int, seconds: float, rate: float | None) -> dict[str, float]:
    """Returns requests a second and latencies, in a closed loop or, with a rate, at evenly spread times."""
    loop, rng, spent = asyncio.get_running_loop(), random.Random(1), []
    clients = [(await loop.create_connection(Client, "127.0.0.1", port))[1] for _ in range(connections)]
    end = time.perf_counter() + seconds

    async def one(client: Client, first: float) -> None:
        due = first
        while time.perf_counter() < end:
            if rate is not None:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due += connections / rate
            spent.append(await client.ask(rng.randrange(1_000_000)))

    start = time.perf_counter()
    await asyncio.gather(*(one(c, start + i / (rate or 1)) for i, c in enumerate(clients)))
    p50, p95 = np.percentile(spent, [50, 95])
    return {
        "requests/s": round(len(spent) / (time.perf_counter() - start)),
        "P50 ms": round(1000 * p50, 3),
        "P95 ms": round(1000 * p95, 3),
    }


def free_port() -> int:
    """Returns a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int) -> None:
    """Waits until someone listens.

    Raises:
        TimeoutError: Nobody does within 20 s.
    """
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nobody listens on port {port}")


def router_figures(seconds: float) -> dict[str, Any]:
    """Returns throughput and latency, straight and through the router; of three turns, the one with the best P95."""
    server_port, port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "assignment.json"
        write_json(file, {"salt": "s", "layer": "films", "arms": {"films-v1": 50, "films-v2": 50}})
        router = [sys.executable, "-m", "slipway.serving.router", "--port", str(port), "--assignment", str(file)]
        processes = [
            subprocess.Popen([sys.executable, __file__, "--server", str(server_port)]),
            subprocess.Popen([*router, "--upstream", f"http://127.0.0.1:{server_port}"], stderr=subprocess.DEVNULL),
        ]
        try:
            for waited in (server_port, port):
                await_port(waited)
            figures: dict[str, Any] = {}
            for name, connections, rate in (
                ("1 connection", 1, None),
                ("16 connections", 16, None),
                ("16 connections, 500 requests/s in all", 16, 500.0),
            ):
                turns = [
                    {way: uvloop.run(load(at, connections, seconds, rate)) for way, at in ways.items()}
                    for ways in [{"straight": server_port, "router": port}] * 3
                ]
                best = {way: min((turn[way] for turn in turns), key=lambda t: t["P95 ms"]) for way in turns[0]}
                added = round(best["router"]["P95 ms"] - best["straight"]["P95 ms"], 3)
                figures[name] = best | {"added P95 ms": added}
            return figures
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=20)


async def serve(port: int) -> None:
    """Runs the server of the benchmark."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


# -------------------------------------------------------------------------------------------------- assignment


def best_of(work: Callable[[], object], times: int = 3) -> float:
    """Returns the shortest of several runs, in seconds."""
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return min(spent)


def assignment_figures() -> dict[str, float]:
    """Returns what it costs to say who gets what."""
    whole = Layers("s", [Experiment(f"e{index}", f"layer-{index}", HALVES) for index in range(EXPERIMENTS)])
    halves = Layers(
        "s", [Experiment(f"e{i}", f"layer-{i // 2}", HALVES, None, i % 2 * 500, i % 2 * 500 + 500) for i in range(100)]
    )
    single = Assignment("s", "films", {"films-v1": 50, "films-v2": 50})
    users = [str(number) for number in range(1000)]
    many = [str(number) for number in range(1_000_000)]
    return {
        "one user, one layer, us": round(best_of(lambda: [single.arm_of(user) for user in users]) * 1e3, 2),
        "one user, 100 layers, us": round(best_of(lambda: [whole.arms_of(user) for user in users]) * 1e3, 1),
        "one user, 50 layers of two experiments, us": round(
            best_of(lambda: [halves.arms_of(user) for user in users]) * 1e3, 1
        ),
        "a million users, one layer, s": round(best_of(lambda: single.arms_of(many)), 2),
    }


# ------------------------------------------------------------------------------------------- false discoveries


def batch(rng: np.random.Generator, *, effects: bool) -> Counts:
    """Returns counts of one batch, shape [days, experiments, arm, 2]: users, and those with an event; control first."""
    log_odds = np.zeros(EXPERIMENTS)
    if effects:
        log_odds[:TRUE_EFFECTS] = np.log(rng.uniform(1.1, 1.3, TRUE_EFFECTS))
    counts = np.zeros((DAYS, EXPERIMENTS, 2, 2), dtype=np.int64)
    for day in range(DAYS):
        candidate = rng.integers(0, 2, (USERS_PER_DAY, EXPERIMENTS), dtype=np.int8).astype(np.float64)
        # A click's log-odds: those of the day, of the user, and of every experiment that the user is in; centred, so
        # that the base rate stays near 15 %.
        base = -1.9 + 0.3 * np.sin(day) + 0.8 * rng.standard_normal(USERS_PER_DAY) + (candidate - 0.5) @ log_odds
        event = (rng.random(USERS_PER_DAY) < 1 / (1 + np.exp(-base))).astype(np.float64)
        treated, clicks = candidate.sum(axis=0), event @ candidate
        counts[day, :, 1] = np.stack([treated, clicks], axis=1)
        counts[day, :, 0] = np.stack([USERS_PER_DAY - treated, event.sum() - clicks], axis=1)
    return counts


def log_e_values(counts: Counts) -> NDArray[np.float64]:
    """Returns the log e-value of each experiment after each day, shape [days, experiments]."""
    values = np.zeros((DAYS, EXPERIMENTS))
    for index in range(EXPERIMENTS):
        sums = np.zeros(len(log_sums_of([])))
        for day in range(DAYS):
            (n_s, y), (n_c, x) = counts[day, index].tolist()
            sums = sums + log_sums_of([PairCounts(x, n_c, y, n_s)])
            values[day, index] = log_e_value(sums)
    return values


def p_values(counts: Counts) -> NDArray[np.float64]:
    """Returns two-sided p-values of z-tests on the totals after each day, shape [days, experiments]."""
    totals = counts.cumsum(axis=0).astype(np.float64)
    users, events = totals[..., 0], totals[..., 1]
    pooled = events.sum(axis=-1) / users.sum(axis=-1)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / users).sum(axis=-1))
    difference = events[..., 1] / users[..., 1] - events[..., 0] / users[..., 0]
    return np.asarray(2 * norm.sf(np.abs(difference / spread)))


def benjamini_hochberg(p: NDArray[np.float64], fdr: float) -> NDArray[np.bool_]:
    """Returns what the procedure of Benjamini and Hochberg (1995) rejects."""
    order = np.argsort(p)
    enough = np.flatnonzero(p[order] <= fdr * np.arange(1, len(p) + 1) / len(p))
    rejected = np.zeros(len(p), dtype=np.bool_)
    if len(enough):
        rejected[order[: enough[-1] + 1]] = True
    return rejected


def discovery_figures(batches: int, *, effects: bool) -> dict[str, dict[str, float]]:
    """Returns by method the mean false discovery proportion, and the part of the true effects that was found."""
    rng = np.random.default_rng(20)
    null = np.arange(EXPERIMENTS) >= (TRUE_EFFECTS if effects else 0)
    outcomes: dict[str, list[tuple[float, int, bool]]] = {}
    for _ in range(batches):
        counts = batch(rng, effects=effects)
        e, p = log_e_values(counts), p_values(counts)
        by_method = {
            "e-BH": [e_bh(day, FDR) for day in e],
            "BH on z-tests": [benjamini_hochberg(day, FDR) for day in p],
            "z-test per experiment": [day < FDR for day in p],
        }
        for name, days in by_method.items():
            first = next((flags for flags in days if flags.any()), days[-1])
            ever = np.logical_or.accumulate(days)[-1]
            kinds = {"day 14 only": days[-1], "stopped at the first discovery": first}
            if name != "e-BH":
                kinds["each kept from the day it showed"] = ever
            for kind, flags in kinds.items():
                false = int((flags & null).sum())
                outcomes.setdefault(f"{name}, {kind}", []).append(
                    (false / max(1, int(flags.sum())), int((flags & ~null).sum()), bool(flags.any()))
                )
    summary = {}
    for name, rows in outcomes.items():
        proportions = np.array([row[0] for row in rows])
        summary[name] = {
            "false discovery rate": round(float(proportions.mean()), 4),
            "its standard error": round(float(proportions.std() / np.sqrt(len(rows))), 4),
            "batches with a discovery": round(float(np.mean([row[2] for row in rows])), 3),
        }
        if effects:
            summary[name]["true effects found, of 20"] = round(float(np.mean([row[1] for row in rows])), 2)
    return summary


def analysis_figures() -> dict[str, float]:
    """Returns what it costs to judge 100 experiments from all their windows."""
    counts = batch(np.random.default_rng(3), effects=True)
    data = []
    for index in range(EXPERIMENTS):
        windows: list[Window] = [
            {arm: ArmCounts(*counts[day, index, at].tolist()) for at, arm in enumerate(HALVES)} for day in range(DAYS)
        ]
        data.append((Experiment(f"e{index}", f"layer-{index}", HALVES), windows))
    return {"100 experiments of 14 windows, s": round(best_of(lambda: analyse(data)), 2)}


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=200, help="simulated batches of 100 experiments")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load, each")
    parser.add_argument("--server", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.server is not None:
        uvloop.run(serve(options.server))
        return
    figures = {
        "machine": {
            "cores": os.cpu_count(),
            "load before": round(os.getloadavg()[0], 2),
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("numpy", "scipy", "httptools", "uvloop")},
        },
        "router": router_figures(options.seconds),
        "assignment": assignment_figures(),
        "analysis": analysis_figures(),
        f"{options.batches} batches of 80 null and 20 true": discovery_figures(options.batches, effects=True),
        f"{options.batches} batches of 100 null": discovery_figures(options.batches, effects=False),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
