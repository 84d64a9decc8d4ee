"""NDCG@10 and AUC as guardrails, on a real plane: users click on what they like, and only the order is at stake.

Every answer holds the whole catalogue of ten items, so that no version loses a click: only where the liked item stands
differs.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipway.models.families import save_model
from slipway.models.ids import IdIndex
from slipway.models.interface import Catalogue
from slipway.models.matrix_factorization.model import MatrixFactorization
from slipway.models.seen import SeenItems
from slipway.models.standardisation import Standardisation
from slipway.serving.rollout.core.types import Phase
from slipway.serving.rollout.event_stream import explanation_of
from slipway.serving.ui.local_source import LocalSource

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("strategies_rankings")]

USERS, ITEMS, FACTORS = 4000, 10, 4


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    generator = np.random.default_rng(11)
    users = generator.normal(size=(USERS, FACTORS)).astype(np.float32)
    return users, generator.normal(size=(ITEMS, FACTORS)).astype(np.float32)


@pytest.fixture(scope="module")
def ranked_bundle(tmp_path_factory: pytest.TempPathFactory, world: Any) -> Any:
    """Writes a model that ranks as users like it, or one whose items have changed places."""
    users, items = world

    def write(name: str, *, shuffled: bool) -> Path:
        order = np.random.default_rng(12).permutation(ITEMS) if shuffled else np.arange(ITEMS)
        path = tmp_path_factory.mktemp("ranked") / name
        model = MatrixFactorization(
            Catalogue(
                users=IdIndex.from_strings(f"{user:04}" for user in range(USERS)),
                items=IdIndex.from_strings(f"film-{item}" for item in range(ITEMS)),
                seen=SeenItems.from_pairs(np.array([], np.int64), np.array([], np.int64), n_users=USERS),
                popularity=np.full(ITEMS, 0.1),
                interactions=ITEMS,
            ),
            user_offsets=users,
            item_factors=items[order],
            feature_weights=np.zeros((0, FACTORS), np.float32),
            standardisation=Standardisation.fit((), {}),
            parameters={},
        )
        save_model(model, path, name="films")
        return path

    return write


class Readers:
    """Clients that ask for one user after the other and click on the item that the user likes best, seven in ten."""

    def __init__(self, port: int, likes: list[str], clients: int = 3) -> None:
        self.port, self.likes, self.clients = port, likes, clients
        self.sent = 0
        self.codes: Counter[Any] = Counter()
        self.outcomes: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Readers:
        self._threads = [threading.Thread(target=self._client, args=(seed,)) for seed in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _client(self, seed: int) -> None:
        chance = random.Random(seed)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._stopping.is_set():
            with self._lock:
                user = self.sent % len(self.likes)
                self.sent += 1
            try:
                answer = self._post(connection, "/v1/models/films:predict", {"instances": [{"user": f"{user:04}"}]})
                if answer is not None and chance.random() < 0.7:
                    click = {"request_id": answer["request_id"], "item": self.likes[user], "type": "click"}
                    taken = self._post(connection, "/v1/feedback", click)
                    self.outcomes[str(taken and taken["outcome"])] += 1
            except (OSError, HTTPException):
                connection.close()
            time.sleep(0.002)
        connection.close()

    def _post(self, connection: HTTPConnection, path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        connection.request("POST", path, json.dumps(content), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = response.read()
        self.codes[response.status] += 1
        return dict(json.loads(body)) if response.status in (200, 202) else None


POLICY = {
    "strategy": "canary",
    "assignment": "user",
    "steps": [
        {"weight": 25, "minimum_dwell": "1s", "minimum_samples": 50},
        {"weight": 100, "minimum_dwell": "1s", "minimum_samples": 0},
    ],
    "guardrails": [
        {"name": "clicks", "kind": "clicks", "unit": "user", "margin": {"odds_ratio": 0.5}, "requires": "noHarm"},
        {"name": "ndcg", "kind": "ndcg", "at": 10, "unit": "user", "margin": {"absolute": 0.2}},
        {"name": "auc", "kind": "auc", "unit": "user", "margin": {"absolute": 0.3}, "requires": "noHarm"},
    ],
    "no_data": {"hold_for": "60s"},
}


def test_a_candidate_that_shuffles_the_order_goes_back_by_ndcg_and_an_equal_one_does_not(
    shared_plane: Any, wanted: Any, ranked_bundle: Any, world: Any, real_predictors: Any, rollout: Any
) -> None:
    plane, (users, items) = shared_plane, world
    likes = [f"film-{item}" for item in (users @ items.T).argmax(axis=1)]
    bundles = {
        "1": ranked_bundle("first", shuffled=False),
        "2": ranked_bundle("shuffled", shuffled=True),
        "3": ranked_bundle("equal", shuffled=False),
    }
    arms = [plane.arm(version, replicas=1, bundle=path) for version, path in bundles.items()]
    wanted(plane, arms, {"films-v1": 100, "films-v2": 0, "films-v3": 0})
    plane.up(**real_predictors)
    plane.eventually(lambda: all(arm.ready == 1 for arm in plane.observed.arms.values()))
    run = rollout(plane, POLICY, arms=arms)
    with Readers(plane.gateway_port, likes) as load:
        run.until(lambda: run.state is not None and run.state.terminal, seconds=120.0)
    assert run.state.phase is Phase.PROMOTED, run.state.reason
    assert run.aliases.champion == "3"
    assert set(run.state.dropped) == {"films-v2"}
    assert "mean NDCG@10 of a user" in run.state.dropped["films-v2"]
    assert set(load.codes) == {200, 202}
    assert load.outcomes["forged"] == load.outcomes["unknown"] == 0
    looks = [decision for decision in explanation_of(run.folder)["decisions"] if decision["guardrails"]]
    last = {(one["arm"], one["guardrail"]): one for decision in looks for one in decision["guardrails"]}
    # Every list holds every item, so that clicks say nothing about the order.
    for arm in ("films-v2", "films-v3"):
        assert 0.5 < last[arm, "clicks"]["candidate_rate"] < 0.9
        assert last[arm, "clicks"]["outcome"] != "FAIL"
    ranked = last["films-v3", "ndcg"]
    assert ranked["stable_rate"] == pytest.approx(0.7, abs=0.12)  # the liked item first, where there was a click
    assert (ranked["outcome"], last["films-v2", "ndcg"]["outcome"]) == ("PASS", "FAIL")
    assert last["films-v2", "ndcg"]["value"] < -0.2 < ranked["value"]
    # Whoever clicked nothing has no AUC: some three in ten are left out, and counted.
    auc = last["films-v3", "auc"]
    assert auc["stable_rate"] == pytest.approx(1.0)
    assert auc["samples"] < 0.9 * ranked["samples"]
    labels = 'measure="auc",type="click",unit="user",version="3"'
    (left_out,) = plane.scraped(f"slipway_joined_unranked_total{{{labels}}}")
    assert float(left_out["value"][1]) > 0
    # The page keeps showing what was found of the one that was stopped.
    shown = LocalSource(plane.directory).read(run.folder.id)
    found = {(one["arm"], one["guardrail"]): one["outcome"] for one in shown["verdicts"]}
    assert (found["films-v2", "ndcg"], found["films-v3", "ndcg"]) == ("FAIL", "PASS")
    assert set(shown["dropped"]) == {"films-v2"}
    # What was read, together, is what the last verdict rests on.
    readings = [
        one["readings"]["films-v3"]["n"]
        for decision in looks
        for one in decision["guardrails"]
        if (one["arm"], one["guardrail"]) == ("films-v3", "ndcg") and "films-v3" in one["readings"]
    ]
    assert sum(readings) == ranked["samples"]
    assert ranked["queries"]["films-v3"].startswith('slipway_joined_ranking_total{model="films",version="3"')
