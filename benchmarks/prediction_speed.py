"""Prediction latency and throughput beside KServe's stock server, in one run on one machine.

Ours: the real predictor process with a matrix factorisation bundle (10,000 items, d = 64) that reads its users'
features from a real Redis, checks every request, signs a request id and counts. Stock: a plain `kserve.Model` that
takes the same product and `argpartition` in numpy, and does nothing else.

    python benchmarks/prediction_speed.py [--seconds 3] [--json FILE]

The load comes from a process of its own over raw keep-alive sockets, sent on a fixed schedule (open loop): a request
that waits counts from the time at which it was due. The highest rate held is the highest one offered for which at
least 99 % was answered in time and the 95th percentile stayed under 50 ms.
"""

from __future__ import annotations

import argparse
import heapq
import json
import multiprocessing
import os
import platform
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

USERS, ITEMS, FACTORS, K = 5_000, 10_000, 64, 10
LIMIT_MS = 50.0
CONNECTIONS = 8
OUR_PATH, STOCK_PATH = "/v1/models/speed:predict", "/v1/models/stock:predict"


@dataclass(frozen=True)
class Reading:
    """One measurement: requests a second offered and answered, and percentiles of the time to answer in ms."""

    offered: float
    answered: float
    p50: float
    p95: float
    p99: float
    failed: int

    @property
    def held(self) -> bool:
        return self.failed == 0 and self.answered >= 0.99 * self.offered and self.p95 < LIMIT_MS


def load(port: int, bodies: list[bytes], rate: float | None, seconds: float, connections: int) -> Reading:
    """Sends requests for `seconds`: on schedule at `rate` a second, or without a pause where it is None."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_client, args=(writer, port, bodies, rate, seconds, connections))
    process.start()
    latencies, failed, elapsed = reader.recv()
    process.join()
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99]) if len(latencies) else (np.inf,) * 3
    answered = len(latencies) / elapsed
    return Reading(rate or answered, answered, float(p50), float(p95), float(p99), failed)


def _client(pipe: Any, port: int, bodies: list[bytes], rate: float | None, seconds: float, connections: int) -> None:
    selector = selectors.DefaultSelector()
    idle: list[socket.socket] = []
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ)
        idle.append(connection)
    waiting: dict[socket.socket, tuple[float, bytearray]] = {}
    latencies: list[float] = []
    failed = sent = 0
    start = time.perf_counter()
    end = start + seconds
    due: list[float] = [] if rate is None else [start + number / rate for number in range(int(rate * seconds))]
    heapq.heapify(due)
    while True:
        now = time.perf_counter()
        while idle and ((rate is None and now < end) or (due and due[0] <= now)):
            moment = now if rate is None else heapq.heappop(due)
            connection = idle.pop()
            connection.sendall(bodies[sent % len(bodies)])
            waiting[connection] = (moment, bytearray())
            sent += 1
        if not waiting and (now >= end or (rate is not None and not due)):
            break
        if now > end + 2.0:
            failed += len(waiting) + len(due)
            break
        pause = max(0.0, due[0] - now) if due and idle else 0.05
        for key, _ in selector.select(pause):
            connection = key.fileobj  # type: ignore[assignment]
            moment, buffer = waiting[connection]
            buffer += connection.recv(1 << 18)
            if _complete(buffer):
                latencies.append((time.perf_counter() - moment) * 1000)
                failed += not buffer.startswith(b"HTTP/1.1 200")
                del waiting[connection]
                idle.append(connection)
    pipe.send((latencies, failed, time.perf_counter() - start))


def _complete(buffer: bytearray) -> bool:
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return False
    position = buffer.lower().find(b"content-length:", 0, head)
    end = buffer.find(b"\r", position)
    return len(buffer) >= head + 4 + int(buffer[position + 15 : end])


def request_bodies(path: str, users_a_request: int, count: int = 64) -> list[bytes]:
    """Returns whole HTTP requests for random known users."""
    random = np.random.default_rng(3)
    bodies = []
    for _ in range(count):
        users = random.integers(0, USERS, users_a_request)
        body = json.dumps({"instances": [{"user": str(user), "k": K} for user in users]}).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        bodies.append(head.encode() + body)
    return bodies


def highest_rate(port: int, bodies: list[bytes], seconds: float) -> tuple[Reading, list[Reading]]:
    """Returns the highest rate held and all that was tried: first without pauses, then down from that on schedule."""
    load(port, bodies, None, 0.5, CONNECTIONS)
    ceiling = load(port, bodies, None, seconds, CONNECTIONS)
    tried = []
    for share in (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5):
        reading = load(port, bodies, ceiling.answered * share, seconds, 64)
        tried.append(reading)
        if reading.held:
            return reading, tried
    return tried[-1], tried


def make_bundle(directory: Path) -> Any:
    """Writes a random bundle of the stated size that reads a view, and returns the view."""
    from slipway.contracts.features import FeatureSchema, ViewSchema
    from slipway.models.families import save_model
    from slipway.models.ids import IdIndex
    from slipway.models.interface import Catalogue
    from slipway.models.matrix_factorization.model import MatrixFactorization
    from slipway.models.seen import SeenItems
    from slipway.models.standardisation import Standardisation

    random = np.random.default_rng(1)
    names = ("events_7d", "events_30d", "mean_rating_7d", "mean_rating_30d")
    view = ViewSchema(name="user_activity", entity="user", features=tuple(FeatureSchema(name=name) for name in names))
    user_rows = np.repeat(np.arange(USERS), 50)
    item_rows = random.integers(0, ITEMS, len(user_rows))
    catalogue = Catalogue(
        users=IdIndex.from_strings(str(user) for user in range(USERS)),
        items=IdIndex.from_strings(str(item) for item in range(ITEMS)),
        seen=SeenItems.from_pairs(user_rows, item_rows, n_users=USERS),
        popularity=np.bincount(item_rows, minlength=ITEMS) / USERS,
    )
    values = random.normal(size=(USERS, len(names))).astype(np.float32)
    standardisation = Standardisation.fit((view,), {view.name: values})
    model = MatrixFactorization(
        catalogue,
        user_offsets=random.normal(size=(USERS, FACTORS)).astype(np.float32) / 8,
        item_factors=random.normal(size=(ITEMS, FACTORS)).astype(np.float32) / 8,
        feature_weights=random.normal(size=(1 + len(names), FACTORS)).astype(np.float32) / 8,
        standardisation=standardisation,
        parameters={},
    )
    directory.mkdir(parents=True)
    save_model(model, directory, name="speed")
    return view


def write_features(url: str, view: Any) -> None:
    """Puts a row for every user into Redis."""
    import pyarrow as pa

    from slipway.feature_store.online import OnlineStore

    random = np.random.default_rng(2)
    columns = {feature.name: random.normal(size=USERS).astype(np.float32) for feature in view.features}
    now = pa.array([int(time.time() * 1e6)] * USERS, pa.timestamp("us", tz="UTC"))
    table = pa.table({"user": [str(user) for user in range(USERS)], "event_time": now, **columns})
    OnlineStore(url, "speed").write(view, table)


STOCK = """
import sys
import numpy as np
from kserve import Model, ModelServer

class Stock(Model):
    def load(self):
        random = np.random.default_rng(1)
        self.users = random.normal(size=(%(users)d, %(factors)d)).astype(np.float32) / 8
        self.items = random.normal(size=(%(items)d, %(factors)d)).astype(np.float32) / 8
        self.ready = True

    def predict(self, payload, headers=None):
        rows = [int(instance["user"]) for instance in payload["instances"]]
        scores = self.users[rows] @ self.items.T
        best = np.argpartition(-scores, %(k)d, axis=1)[:, :%(k)d]
        values = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-values, axis=1)
        best, values = np.take_along_axis(best, order, axis=1), np.take_along_axis(values, order, axis=1)
        return {"predictions": [{"items": i, "scores": s} for i, s in zip(best.tolist(), values.tolist())]}

model = Stock("stock")
model.load()
ModelServer(workers=1).start([model])
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A server process in its own folder, ended at the end of the block."""

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self._command, self._port, self._log = command, port, log
        self.seconds_to_answer = 0.0

    def __enter__(self) -> Process:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        started = time.monotonic()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
        while True:
            if self._process.poll() is not None or time.monotonic() - started > 60:
                self._process.kill()
                raise SystemExit(
                    f"error: {' '.join(self._command[:4])} did not start:\n{self._log.read_text()[-2000:]}"
                )
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        self.seconds_to_answer = time.monotonic() - started
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def memory_mib(self) -> float:
        import psutil

        return float(psutil.Process(self._process.pid).memory_info().rss) / 2**20


def measure(name: str, port: int, path: str, users: int, seconds: float) -> dict[str, Any]:
    """Measures one server with so many users a request, and prints its row."""
    bodies = request_bodies(path, users)
    alone = load(port, bodies, None, seconds / 2, 1)
    best, tried = highest_rate(port, bodies, seconds)
    print(
        f"{name:<8} {users:>5}   {alone.p50:>7.2f} {alone.p95:>7.2f}   {best.answered:>8.0f} "
        f"{best.answered * users:>9.0f} {best.p50:>7.2f} {best.p95:>7.2f} {best.p99:>7.2f}"
        f"{'' if best.held else '   (not held)'}",
        flush=True,
    )
    return {"alone": asdict(alone), "held": asdict(best), "tried": [asdict(one) for one in tried]}


def main() -> int:
    """Runs the benchmark and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.5, help="length of one measurement")
    parser.add_argument("--json", type=Path, help="also write the readings here")
    options = parser.parse_args()
    if shutil.which("redis-server") is None:
        print("error: redis-server is not installed; on Debian: apt-get install redis-server", file=sys.stderr)
        return 1
    versions = {name: metadata.version(name) for name in ("kserve", "numpy", "uvicorn", "redis")}
    information = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in information if line.startswith("model name")), "?")
    machine = f"{processor}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    print(f"{machine}; {', '.join(f'{name} {version}' for name, version in versions.items())}")
    print(f"{ITEMS:,} items, d = {FACTORS}, top {K}, {USERS:,} users; one server process, BLAS on one thread\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        view = make_bundle(folder / "bundle")
        ports = [free_port() for _ in range(6)]
        redis_command = ["redis-server", "--port", str(ports[0]), "--bind", "127.0.0.1", "--save", ""]
        ours_command = [
            *(sys.executable, "-m", "slipway.serving.predictor", "--bundle", str(folder / "bundle")),
            *("--model", "speed", "--version", "1", "--http-port", str(ports[1]), "--grpc-port", str(ports[2])),
            *("--metrics-port", str(ports[3]), "--key-file", str(folder / "key")),
            *("--redis", f"redis://127.0.0.1:{ports[0]}/0"),
        ]
        (folder / "stock.py").write_text(STOCK % {"users": USERS, "items": ITEMS, "factors": FACTORS, "k": K})
        stock_command = [sys.executable, str(folder / "stock.py"), "--http_port", str(ports[4])]
        stock_command += ["--grpc_port", str(ports[5])]
        print("                   one connection      highest rate held (P95 under 50 ms)")
        print("server   users   p50 ms  p95 ms   requests users/s      p50     p95     p99")
        ours: dict[str, Any] = {}
        stock: dict[str, Any] = {}
        with Process(redis_command, ports[0], folder / "redis.log"):
            write_features(f"redis://127.0.0.1:{ports[0]}/0", view)
            # One after the other: an idle server costs nothing, and close in time is close in the machine's mood.
            with (
                Process(ours_command, ports[1], folder / "ours.log") as our_server,
                Process(stock_command, ports[4], folder / "stock.log") as stock_server,
            ):
                for users in (1, 32):
                    ours[str(users)] = measure("slipway", ports[1], OUR_PATH, users, options.seconds)
                    stock[str(users)] = measure("stock", ports[4], STOCK_PATH, users, options.seconds)
                for readings, server in ((ours, our_server), (stock, stock_server)):
                    readings |= {"start_seconds": server.seconds_to_answer, "memory_mib": server.memory_mib()}
    print()
    for count in ("1", "32"):
        ratio = ours[count]["held"]["answered"] / stock[count]["held"]["answered"]
        print(f"{count:>2} users a request: {ratio:.2f} times the rate of the stock server")
    print(
        f"first answer after {ours['start_seconds']:.1f} s (stock {stock['start_seconds']:.1f} s), "
        f"memory {ours['memory_mib']:.0f} MiB (stock {stock['memory_mib']:.0f} MiB)"
    )
    if options.json:
        content = {"machine": machine, "versions": versions, "slipway": ours, "stock": stock}
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
