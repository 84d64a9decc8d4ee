"""Real planes whose predictors are stand-ins, and clients whose users, answers and waits are kept."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipway.contracts.rollout import ArmTarget, RolloutSpec
from slipway.models.families import save_model
from slipway.models.ids import IdIndex
from slipway.models.interface import Catalogue
from slipway.models.matrix_factorization.model import MatrixFactorization
from slipway.models.seen import SeenItems
from slipway.models.standardisation import Standardisation
from slipway.serving.local.desired import Desired, write_desired
from slipway.serving.rollout.controller import Controller
from slipway.serving.rollout.core.types import Phase
from slipway.serving.rollout.local import LocalPlane
from slipway.serving.rollout.store import RolloutFolder, RolloutStore

_PLANES = Path(__file__).parents[1] / "local_plane" / "conftest.py"
_specification = importlib.util.spec_from_file_location("planes_under_test", _PLANES)
assert _specification is not None
assert _specification.loader is not None
planes = importlib.util.module_from_spec(_specification)
sys.modules[_specification.name] = planes  # where dataclasses look their module up
_specification.loader.exec_module(planes)

plane, shared_plane = planes.plane, planes.shared_plane


@dataclass
class Visitors:
    """Clients that ask for users 0, 1, 2, ... in turn until they are told to stop, or `total` was asked."""

    port: int
    total: int = 1_000_000_000
    users: int = 200
    clients: int = 4
    pause: float = 0.0
    codes: Counter[Any] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    versions_of: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    longest: float = 0.0
    sent: int = 0

    def __enter__(self) -> Visitors:
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def finish(self) -> None:
        """Waits until all were asked."""
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Asks nothing more and waits for the answers that are due."""
        with self._lock:
            self.total = min(self.total, self.sent)
        self.finish()

    def _client(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        while True:
            with self._lock:
                if self.sent >= self.total:
                    break
                user = str(self.sent % self.users)
                self.sent += 1
            version, began = "", time.monotonic()
            try:
                body = json.dumps({"instances": [{"user": user}]})
                connection.request(
                    "POST", "/v1/models/films:predict", body=body, headers={"Content-Type": "application/json"}
                )
                response = connection.getresponse()
                content = response.read()
                code: Any = response.status
                answer = json.loads(content) if code == 200 else {}
                version = str(answer.get("version", answer.get("model_version", "")))
            except (OSError, HTTPException) as error:
                code = type(error).__name__
                connection.close()
            with self._lock:
                self.codes[code] += 1
                self.versions[version] += 1
                self.versions_of[user].add(version)
                self.longest = max(self.longest, time.monotonic() - began)
            if self.pause:
                time.sleep(self.pause)
        connection.close()


@pytest.fixture
def visitors() -> type[Visitors]:
    return Visitors


def counted(plane: Any, arm: str, code: str = "200") -> int:
    """Returns the attempts that the gateway counted for an arm, as Prometheus has them."""
    rows = plane.scraped(f'traefik_service_requests_total{{service="{arm}@file",code="{code}"}}')
    return sum(int(float(row["value"][1])) for row in rows)


@pytest.fixture
def counts() -> Any:
    return counted


@pytest.fixture
def mapping() -> Any:
    """Asks once for each user; returns the version that answered, by user."""

    def ask_all(plane: Any, users: int = 200) -> dict[str, str]:
        asking = Visitors(plane.gateway_port, total=users, users=users)
        with asking:
            asking.finish()
        assert asking.codes == {200: users}, asking.codes
        return {user: next(iter(versions)) for user, versions in asking.versions_of.items()}

    return ask_all


@pytest.fixture(scope="session")
def wanted() -> Any:
    """Sets what a plane should run: `wanted(plane, arms, weights, mirrors=..., assignment=...)`."""

    def want(plane: Any, arms: list[Any], weights: dict[str, int], **rest: Any) -> None:
        write_desired(plane.directory, Desired(arms=tuple(arms), weights=weights, **rest))

    return want


@pytest.fixture(scope="session")
def real_predictors() -> dict[str, Any]:
    """Settings of a plane that serves bundles, and joins and compares what is answered."""
    return {
        "collector": True,
        "predictor_command": (sys.executable, "-m", "slipway.serving.predictor"),
        "feedback_wait": 0.5,
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """Writes a small model for users 0 to 59, whose item factors are shaken by so much noise."""

    directory = tmp_path_factory.mktemp("bundles")

    def write(noise: float) -> Path:
        random = np.random.default_rng(5)
        users, items, factors = 60, 40, 4
        user_rows, item_rows = np.repeat(np.arange(users), 4), random.integers(0, items, 4 * users)
        item_factors = random.normal(size=(items, factors))
        model = MatrixFactorization(
            Catalogue(
                users=IdIndex.from_strings(str(user) for user in range(users)),
                items=IdIndex.from_strings(f"film-{item}" for item in range(items)),
                seen=SeenItems.from_pairs(user_rows, item_rows, n_users=users),
                popularity=np.bincount(item_rows, minlength=items) / users,
                interactions=len(user_rows),
            ),
            user_offsets=random.normal(size=(users, factors)).astype(np.float32),
            item_factors=(item_factors + noise * random.normal(size=item_factors.shape)).astype(np.float32),
            feature_weights=np.zeros((0, factors), np.float32),
            standardisation=Standardisation.fit((), {}),
            parameters={},
        )
        path = directory / str(noise)
        if not path.exists():
            save_model(model, path, name="films")
        return path

    return write


ERRORS = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5, "absolute": 0.05}, "requires": "noHarm"}
NO_DATA = {"hold_for": "30s"}


class Aliases:
    """The part of a registry that a controller needs."""

    def __init__(self) -> None:
        self.champion = "1"

    def get(self, model: str, alias: str) -> Any:
        assert (model, alias) == ("films", "champion")
        return type("Version", (), {"version": self.champion})

    def set_alias(self, model: str, alias: str, version: str) -> None:
        assert (model, alias) == ("films", "champion")
        self.champion = version


class Run:
    """One rollout from version 1 to version 2, looked at until something is so."""

    def __init__(self, plane: Any, policy: dict[str, Any], *, arms: list[Any] | None = None, **candidate: str) -> None:
        self.plane = plane
        self.aliases = Aliases()
        arms = arms or [plane.arm("1"), plane.arm("2", environment=candidate)]
        targets = [ArmTarget(arm=arm.name, version=arm.version, digest=f"digest-{arm.version}") for arm in arms]
        self.spec = RolloutSpec(
            id=f"rollout-{policy['strategy']}-{len(arms)}-{len(candidate)}",
            model="films",
            candidates=tuple(targets[1:]),
            stable=targets[0],
            policy={"guardrails": [ERRORS], "no_data": NO_DATA} | policy,
        )
        store = RolloutStore(plane.settings().layout.rollouts)
        self.folder: RolloutFolder = store.create(self.spec, {arm.name: arm for arm in arms})
        self.controller = Controller(LocalPlane(plane.directory, lambda: self.aliases), store)  # type: ignore[arg-type, return-value]

    @property
    def state(self) -> Any:
        record = self.folder.read()
        return None if record is None else record.state

    def until(self, condition: Callable[[], bool], seconds: float = 45.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.state
            self.controller.tick()
            time.sleep(0.05)

    def until_phase(self, phase: Phase) -> None:
        self.until(lambda: self.state is not None and self.state.phase is phase)


@pytest.fixture
def rollout() -> type[Run]:
    return Run
