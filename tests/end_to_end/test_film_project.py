"""The film example from ratings to traffic: answers are what was evaluated, and rollouts survive killed controllers."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.contracts.bundle import read_bundle
from slipway.examples.films.demo.mapping_fault import register_mixed_up
from slipway.examples.films.demo.visitors import Visitors, read_tastes
from slipway.feature_store.online import OnlineStore
from slipway.models.registry import registry_for
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.local.observed import read_observed
from slipway.serving.local.records import is_same, read_records
from slipway.serving.rollout.store import RolloutStore

pytestmark = [pytest.mark.end_to_end, pytest.mark.integration, pytest.mark.xdist_group("film_project"),
              pytest.mark.timeout(600)]  # fmt: skip

WEAK = ("model.parameters.factors=4", "model.parameters.epochs=4", "model.features=[]")
PEOPLE = 200
KILLS = int(os.environ.get("SLIPWAY_TEST_KILLS", "3"))


def slipway(directory: Path, *arguments: str, accept: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "slipway.cli.main", *arguments], cwd=directory, capture_output=True, text=True
    )
    assert done.returncode in accept, f"slipway {' '.join(arguments)}: {done.returncode}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:.0f} s")
        time.sleep(0.05)


def run(directory: Path, *settings: str) -> dict[str, dict[str, Any]]:
    overrides = [part for setting in settings for part in ("--set", setting)]
    summary = json.loads(slipway(directory, "run", *overrides, "-o", "json"))
    return {step["step"]: step for step in summary["steps"]}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
    """The example with version 1 (weak), 2 (good) and 3 (good, films mixed up); version 1 serves."""
    directory = tmp_path_factory.mktemp("project") / "films"
    slipway(directory.parent, "init", "films", str(directory))
    run(directory, *WEAK)
    good = run(directory)
    register_mixed_up(directory, registry_for(directory).get("films", "2"))
    slipway(directory, "up")
    try:
        slipway(directory, "rollout", "start", "films/1", "--wait")
        yield directory, good
    finally:
        slipway(directory, "down")


def gateway_answers(gateway: str, users: list[str]) -> dict[str, list[str]]:
    connection = http.client.HTTPConnection(urlsplit(gateway).netloc, timeout=30)
    body = json.dumps({"instances": [{"user": user, "k": 10} for user in users]})
    connection.request("POST", "/v1/models/films:predict", body, {"content-type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 200, answer
    assert answer["model_version"] == "2"
    return {prediction["user"]: prediction["items"] for prediction in answer["predictions"]}


def champion_is(directory: Path, version: str) -> str:
    """Has that version serve all traffic as the champion, whatever was before; returns the gateway."""
    observed = read_observed(directory)
    serving = [name for name, arm in observed.arms.items() if arm.weight_applied]
    champion = registry_for(directory).get("films", "champion").version
    if champion == version and serving == [f"films-v{version}"]:
        return observed.endpoints["gateway"]
    slipway(directory, "down")
    registry_for(directory).set_alias("films", "champion", version)
    (PlaneLayout(directory).desired).unlink(missing_ok=True)
    slipway(directory, "up")
    return read_observed(directory).endpoints["gateway"]


def roll_out_under_kills(directory: Path, version: str, seed: int) -> tuple[str, int]:
    """Starts a rollout, kills its controller at random moments, and returns (final phase, kills that hit)."""
    draw = random.Random(seed)
    store = RolloutStore(PlaneLayout(directory).rollouts)
    slipway(directory, "rollout", "start", version, "--retry")
    folder = store.find(None)
    kills = 0

    def ended() -> bool:
        record = folder.read()
        return record is not None and record.state.terminal

    def controller() -> int | None:
        records = {record.name: record for record in read_records(PlaneLayout(directory).processes)}
        found = records.get("controller")
        return found.pid if found is not None and is_same(found.pid, found.started_at) else None

    while kills < KILLS and not ended():
        pause = time.monotonic() + draw.uniform(0.5, 4.0)
        wait_until(lambda: ended() or time.monotonic() > pause, 10, "the next moment")  # noqa: B023
        pid = controller()
        if pid is None or ended():
            continue
        os.kill(pid, signal.SIGKILL)
        kills += 1
        wait_until(lambda: ended() or controller() not in (None, pid), 60, "another controller")  # noqa: B023
    wait_until(ended, 240, "the end of the rollout")
    record = folder.read()
    assert record is not None
    return str(record.state.phase), kills


def test_rollouts_reach_the_same_end_when_their_controller_is_killed(
    project: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    directory, good = project
    tastes = read_tastes(Path(good["featurize"]["outputs"]["features"]))
    ends = {}
    for version, expected in (("3", "RolledBack"), ("2", "Promoted")):
        gateway = champion_is(directory, "1")
        with Visitors(gateway, "films", tastes, rate=120, log=tmp_path / f"{version}.jsonl") as visitors:
            visitors.wait_for_visits(14)
            ends[version] = roll_out_under_kills(directory, f"films/{version}", seed=int(version))
            visits, unanswered = visitors.totals
        assert ends[version][0] == expected
        assert unanswered == 0, f"{unanswered} of {visits} visits got no answer"
    assert sum(kills for _, kills in ends.values()) >= 2
    assert registry_for(directory).get("films", "champion").version == "2"


def test_answers_through_the_gateway_are_what_evaluate_ranked_until_a_feature_changes(
    project: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    directory, good = project
    gateway = champion_is(directory, "2")
    table = pq.read_table(Path(good["evaluate"]["outputs"]["evaluation"]) / "rankings.parquet")
    ranked: dict[str, list[str]] = {}
    for row in sorted(table.to_pylist(), key=lambda row: (row["user"], row["rank"])):
        ranked.setdefault(row["user"], []).append(row["item"])
    users = sorted(ranked)[:PEOPLE]
    assert len(users) == PEOPLE
    assert gateway_answers(gateway, users) == {user: ranked[user][:10] for user in users}

    (view,) = read_bundle(registry_for(directory).get("films", "2").bundle_dir).views
    latest = pq.read_table(Path(good["featurize"]["outputs"]["features"]) / f"latest_{view.name}.parquet")
    rows = [row for row in latest.to_pylist() if row["user"] in set(users)]
    for row in rows:
        row["event_time"] += 1 if isinstance(row["event_time"], int) else _microsecond()
        for feature in view.numeric:
            row[feature.name] = type(row[feature.name] or 0.0)((row[feature.name] or 0) * 20 + 50)
    store = OnlineStore(read_observed(directory).endpoints["redis"], "films")
    written = store.write(view, pa.Table.from_pylist(rows, schema=latest.schema))
    assert written.written == len(rows), written
    changed = gateway_answers(gateway, users)
    assert sum(changed[user] != ranked[user][:10] for user in users) > PEOPLE / 2


def _microsecond() -> Any:
    from datetime import timedelta

    return timedelta(microseconds=1)
