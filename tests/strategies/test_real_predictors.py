"""Real predictors: answers to copies beside the models' own rankings, and users followed through a whole A/B test."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from slipway.cli.main import cli
from slipway.contracts.events import AnsweredEntity, RequestSigner, event_time, load_or_create_key
from slipway.models.families import load_model
from slipway.models.interface import Recommender
from slipway.models.ranking import recommend
from slipway.serving.capture.shadow import compare
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.rollout.core.types import Phase

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("strategies_shadow")]

USERS, K = 60, 10
PROJECT = """
apiVersion: slipway.dev/v1alpha1
name: films
data: {interactions: {source: ratings.parquet, columns: {user: u, item: i, timestamp: t}}}
"""


def answers(model: Recommender, users: list[str]) -> list[AnsweredEntity]:
    ranked = recommend(model, users, k=K)
    return [
        AnsweredEntity(user=user, items=tuple(items), scores=tuple(scores))
        for user, items, scores in zip(users, ranked.items, ranked.scores, strict=True)
    ]


def value(plane: Any, name: str, version: str) -> float:
    rows = plane.scraped(f'{name}{{version="{version}"}}')
    return sum(float(row["value"][1]) for row in rows)


@pytest.fixture(scope="module")
def served(shared_plane: Any, wanted: Any, bundle: Any, real_predictors: Any) -> Any:
    """Version 1 serves everyone; version 2 runs."""
    arms = [shared_plane.arm(version, replicas=1, bundle=bundle(noise)) for version, noise in (("1", 0.0), ("2", 0.5))]
    wanted(shared_plane, arms, {"films-v1": 100, "films-v2": 0})
    shared_plane.up(**real_predictors)
    shared_plane.eventually(lambda: all(arm.ready == 1 for arm in shared_plane.observed.arms.values()))
    return shared_plane, arms


def test_answers_to_copies_are_compared_and_never_count_as_answers_without_a_click(
    served: Any, wanted: Any, visitors: Any, counts: Any
) -> None:
    plane, arms = served
    wanted(plane, arms, {"films-v1": 100, "films-v2": 0}, mirrors={"films-v2": 100})
    plane.eventually(lambda: plane.observed.arms["films-v2"].mirror_applied == 100)
    first, second = (load_model(arm.bundle) for arm in arms)
    users = [str(user) for user in range(USERS)]
    expected = [compare(one, other) for one, other in zip(answers(first, users), answers(second, users), strict=True)]
    with visitors(plane.gateway_port, total=5 * USERS, users=USERS) as load:
        load.finish()
    assert load.codes == {200: 5 * USERS}
    assert load.versions == {"1": 5 * USERS}
    plane.eventually(lambda: value(plane, "slipway_shadow_pairs_total", "2") == 5 * USERS)
    for name, figures in (
        ("agreement", [one.agreement for one in expected]),
        ("rank_correlation", [one.rank_correlation for one in expected]),
        ("score_difference", [one.score_difference for one in expected]),
    ):
        assert 0.05 < np.mean(figures) < 0.95
        for suffix, power in (("total", 1), ("squares_total", 2)):
            total = 5 * sum(figure**power for figure in figures)
            assert value(plane, f"slipway_shadow_{name}_{suffix}", "2") == pytest.approx(total, rel=1e-4)
    # Both versions answered, and are counted at gateway and predictor alike; only the users' answers wait for clicks.
    plane.eventually(lambda: counts(plane, "films-v2") == counts(plane, "films-v1") == 5 * USERS)
    plane.eventually(lambda: value(plane, "slipway_predictions_total", "2") == 5 * USERS)
    plane.eventually(lambda: value(plane, "slipway_joined_requests_total", "1") == 5 * USERS)
    assert value(plane, "slipway_joined_requests_total", "2") == 0
    for version in "12":  # a scrape that a busy machine was too late for leaves a gap
        plane.eventually(lambda version=version: value(plane, "process_cpu_seconds_total", version) > 0)
        plane.eventually(lambda version=version: value(plane, "process_resident_memory_bytes", version) > 1 << 20)


def test_users_of_an_ab_test_see_one_version_until_it_is_decided(
    served: Any, wanted: Any, visitors: Any, rollout: Any
) -> None:
    plane, arms = served
    wanted(plane, arms, {"films-v1": 100, "films-v2": 0})
    steps = [{"weight": 50, "minimum_dwell": "1s", "minimum_samples": 400}, {"weight": 100, "minimum_dwell": "1s"}]
    run = rollout(plane, {"strategy": "abTest", "assignment": "user", "steps": steps}, arms=arms)
    with visitors(plane.gateway_port, users=400) as load:
        run.until(lambda: run.state is not None and run.state.step_since is not None)
        load.versions_of.clear()
        run.until(lambda: run.state.step == 1)
        seen = {user: set(versions) for user, versions in dict(load.versions_of).items()}
        run.until_phase(Phase.PROMOTED)
        sent = load.sent
        plane.eventually(lambda: load.sent > sent + 50)
        assert plane.ask(body=b'{"instances":[{"user":"7"}]}')[1]["model_version"] == "2"
    assert load.codes == {200: load.sent}
    # A few answers of the last moment may come from the next step.
    assert sum(len(versions) > 1 for versions in seen.values()) <= load.clients
    share = sum("2" in versions for versions in seen.values()) / len(seen)
    assert abs(share - 0.5) < 4 * (0.25 / len(seen)) ** 0.5
    split = next(verdict for verdict in run.state.verdicts if verdict.guardrail == "errors")
    assert split.stable_samples > 100


def test_a_person_is_forgotten_while_the_plane_captures(served: Any, wanted: Any, visitors: Any) -> None:
    plane, arms = served
    wanted(plane, arms, {"films-v1": 100, "films-v2": 0})
    plane.eventually(lambda: plane.applied({"films-v1": 100}))
    (plane.directory / "slipway.yaml").write_text(PROJECT)
    layout = PlaneLayout(plane.directory)
    person = RequestSigner(load_or_create_key(layout.key_file)).hash_user("7")

    def rows() -> list[tuple[str, str]]:
        """Returns (time of the answer, user) of every row on disk."""
        files = sorted((layout.feedback / "joined").glob("*/*.jsonl"))
        events = (json.loads(line)["prediction"] for file in files for line in file.read_text().splitlines())
        return [(event["time"], entity["user"]) for event in events for entity in event["data"]["entities"]]

    def clean(*options: str) -> list[dict[str, Any]]:
        result = CliRunner().invoke(cli, ["clean", "-f", str(plane.directory), "--user", "7", "-o", "json", *options])
        assert result.exit_code == 0, result.output
        return list(json.loads(result.stdout))

    with visitors(plane.gateway_port, users=60, clients=2, pause=0.01) as load:
        plane.eventually(lambda: any(user == person for _, user in rows()))
        _, answer = plane.ask(body=b'{"instances":[{"user":"7"}]}')
        shown = clean()
        assert {one["kind"] for one in shown} == {"waiting", "joined"}
        assert not any(one["removed"] for one in shown)
        assert any(user == person for _, user in rows())
        # The person goes on asking while the command runs: what was asked until it began is gone for sure.
        began = event_time(time.time())
        clean("--yes")
        ended = event_time(time.time())
        click = {"request_id": answer["request_id"], "item": answer["predictions"][0]["items"][0], "type": "click"}
        _, outcome = plane.ask("/v1/feedback", json.dumps(click).encode())
        assert outcome["outcome"] in ("unknown", "held")
        # What is asked from here on is captured again, and nothing of before comes back with it.
        plane.eventually(lambda: any(user == person and at > ended for at, user in rows()))
    assert all(at >= began for at, user in rows() if user == person)
    assert sum(user != person for _, user in rows()) > 100
    assert load.codes == {200: load.sent}
