"""Simulated visitors: a replay of held-out ratings against the gateway.

A visitor is one of the people whose last ratings were held out. At each visit the person asks for films, and has a few
of their own held-out, really liked films in mind, drawn anew each time; they click the first recommended film that is
among those. So a click says that the model put forward a film that this person did rate well after the cut.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq


def read_tastes(features: Path) -> dict[str, list[str]]:
    """Returns {user: held-out liked items} from a features artifact."""
    table = pq.read_table(features / "test.parquet", columns=["user", "item"])
    tastes: dict[str, list[str]] = defaultdict(list)
    for user, item in zip(table["user"].to_pylist(), table["item"].to_pylist(), strict=True):
        tastes[user].append(item)
    return dict(tastes)


@dataclass
class Second:
    """What visitors saw of one version within one second."""

    visits: int = 0
    clicks: int = 0
    failures: int = 0
    milliseconds: list[float] = field(default_factory=list)


class Visitors:
    """Threads that visit the gateway at a steady rate until they are told to stop.

    Args:
        gateway: Base address of the gateway.
        model: Name of the model in the gateway's paths.
        tastes: {user: held-out liked items}.
        rate: Visits a second, all threads together.
        threads: Visitors that may wait for an answer at the same time.
        in_mind: Liked films that a visitor has in mind at a visit.
        log: JSON lines, one for each second and version.
        seed: Seeds who visits and what they have in mind.
    """

    def __init__(
        self,
        gateway: str,
        model: str,
        tastes: Mapping[str, Sequence[str]],
        *,
        rate: float,
        log: Path,
        threads: int = 8,
        in_mind: int = 5,
        seed: int = 7,
    ) -> None:
        self._host = urlsplit(gateway).netloc
        self._path = f"/v1/models/{model}:predict"
        self._tastes = {user: list(items) for user, items in sorted(tastes.items())}
        self._users = list(self._tastes)
        self._rate = rate
        self._in_mind = in_mind
        self._seed = seed
        self._log = log
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._seconds: dict[tuple[int, str], Second] = defaultdict(Second)
        self._visited: dict[str, set[str]] = defaultdict(set)
        self._tickets = 0
        self._start = 0.0
        self._threads = [
            threading.Thread(target=self._visit_until_stopped, args=(number,)) for number in range(threads)
        ]

    def __enter__(self) -> Visitors:
        self._start = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        rows = [
            {
                "second": second,
                "version": version,
                "visits": seen.visits,
                "clicks": seen.clicks,
                "failures": seen.failures,
                "p50_ms": _quantile(seen.milliseconds, 0.50),
                "p95_ms": _quantile(seen.milliseconds, 0.95),
            }
            for (second, version), seen in sorted(self._seconds.items())
        ]
        self._log.write_text("".join(json.dumps(row) + "\n" for row in rows))

    @property
    def people(self) -> dict[str, int]:
        """How many different people each version has answered."""
        with self._lock:
            return {version: len(users) for version, users in self._visited.items()}

    @property
    def totals(self) -> tuple[int, int]:
        """(visits, visits that got no answer), so far."""
        with self._lock:
            seen = list(self._seconds.values())
        return sum(second.visits for second in seen), sum(second.failures for second in seen)

    def wait_for_visits(self, seconds: float, *, deadline: float = 120.0) -> None:
        """Returns when visitors have come for `seconds`, so that their traffic can be measured, or after `deadline`."""
        until = time.monotonic() + deadline
        while not self._stop.wait(0.1) and time.monotonic() < until:
            with self._lock:
                seen = {second for second, _ in self._seconds}
            if len(seen) > seconds:
                return

    def _visit_until_stopped(self, number: int) -> None:
        draw = random.Random(f"{self._seed}/{number}")  # noqa: S311 - simulated people, no secret
        connection = http.client.HTTPConnection(self._host, timeout=10)
        while not self._stop.is_set():
            with self._lock:
                due = self._start + self._tickets / self._rate
                self._tickets += 1
            late = time.monotonic() - due
            if late < 0 and self._stop.wait(-late):
                break
            if late > 1.0:  # more visits were planned than can be answered: skip them, do not queue them up
                with self._lock:
                    self._tickets = max(self._tickets, int((time.monotonic() - self._start) * self._rate))
            user = draw.choice(self._users)
            liked = self._tastes[user]
            self._visit(connection, user, set(draw.sample(liked, min(self._in_mind, len(liked)))))
        connection.close()

    def _visit(self, connection: http.client.HTTPConnection, user: str, in_mind: set[str]) -> None:
        began = time.perf_counter()
        status, answer = self._post(connection, self._path, {"instances": [{"user": user}]})
        elapsed = (time.perf_counter() - began) * 1000
        version = str(answer.get("model_version", "none"))
        items = answer["predictions"][0]["items"] if status == 200 else []
        clicked = next((item for item in items if item in in_mind), None)
        with self._lock:
            second = self._seconds[int(time.time()), version]
            second.visits += 1
            second.failures += status != 200
            second.clicks += clicked is not None
            second.milliseconds.append(elapsed)
            self._visited[version].add(user)
        if clicked is not None:
            click = {"request_id": answer["request_id"], "item": clicked, "type": "click"}
            self._post(connection, "/v1/feedback", click)

    def _post(self, connection: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else {}
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()
            return 0, {}


def _quantile(values: Sequence[float], share: float) -> float | None:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None
