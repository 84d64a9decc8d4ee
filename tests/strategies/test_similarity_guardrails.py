"""Answers to copies against a limit: the policy, the evidence, and whole shadows on a real plane."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from judging import CANDIDATE, Court
from served_page import served

from slipway.cli.explanation import explanation_text
from slipway.contracts.events import AnsweredEntity
from slipway.contracts.rollout import Guardrail, RolloutPolicy
from slipway.models.families import load_model
from slipway.models.ranking import recommend
from slipway.serving.capture.shadow import compare
from slipway.serving.rollout.core.types import Phase
from slipway.serving.rollout.event_stream import explanation_of

STEP = {"weight": 0, "mirror": 100, "minimum_dwell": "1s", "minimum_samples": 100}
AGREEMENT = {"name": "same", "kind": "agreement", "at": 10, "at_least": 0.6}
RANKS = {"name": "order", "kind": "rank_correlation", "at_least": 0.2}
SCORES = {"name": "scores", "kind": "score_difference", "at_most": 0.3}


def shadow(*guardrails: dict[str, Any], **fields: Any) -> RolloutPolicy:
    return RolloutPolicy.model_validate({"strategy": "shadow", "steps": [STEP], "guardrails": guardrails, **fields})


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"kind": "agreement", "at": 10}, "at_least"),
        ({"kind": "agreement", "at": 7, "at_least": 0.6}, "`at`"),
        ({"kind": "agreement", "at_least": 1.5}, "possible"),
        ({"kind": "agreement", "at_least": 0.6, "margin": {"absolute": 0.1}}, "limit"),
        ({"kind": "rank_correlation", "at_least": -1.0}, "possible"),
        ({"kind": "score_difference", "at_least": 0.1}, "at_most"),
        ({"kind": "score_difference", "at_most": 0.1, "requires": "better"}, "only different"),
        ({"kind": "errors"}, "margin needs"),
        ({"kind": "errors", "at_least": 0.5, "margin": {"absolute": 0.1}}, "at_least"),
        ({"kind": "ndcg", "margin": {"absolute": 0.1}}, "`at`"),
        ({"kind": "auc", "value": "watch", "margin": {"absolute": 0.1}}, "belong together"),
        ({"kind": "ndcg", "at": 10, "margin": {"odds_ratio": 0.9}}, "no odds ratio"),
    ],
)
def test_a_guardrail_that_cannot_be_meant_so_is_refused(document: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Guardrail.model_validate({"name": "one", **document})


def test_answers_to_copies_are_asked_for_where_there_are_copies_and_nowhere_else() -> None:
    with pytest.raises(ValueError, match="give a step a mirror"):
        RolloutPolicy.model_validate({"guardrails": [AGREEMENT]})
    errors = {"name": "errors", "kind": "errors", "margin": {"absolute": 0.01}}
    policy = RolloutPolicy.model_validate({
        "steps": [STEP, {"weight": 50}, {"weight": 100, "minimum_samples": 0}],
        "guardrails": [AGREEMENT, errors, {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}}],
    })  # fmt: skip
    asked = [[one.name for one in policy.guardrails if policy.applies(step, one)] for step in (0, 1)]
    assert asked == [["same", "errors"], ["errors", "clicks"]]
    assert RolloutPolicy.model_validate_json(policy.model_dump_json()) == policy


def pairs(rng: np.random.Generator, n: int, mean: float) -> tuple[int, float, float]:
    """Returns number, sum and squares of agreements as they are: tenths, alike within nobody."""
    values = rng.binomial(10, rng.beta(4 * mean, 4 * (1 - mean), n)) / 10
    return n, float(values.sum()), float((values**2).sum())


@pytest.mark.parametrize(("mean", "outcome"), [(0.75, "PASS"), (0.45, "FAIL"), (0.6, "INCONCLUSIVE")])
def test_agreement_is_proven_above_its_limit_and_fails_below_it(mean: float, outcome: str) -> None:
    court, rng = Court(shadow(AGREEMENT), step=0), np.random.default_rng(5)
    for _ in range(40):
        court.moments("same", pairs(rng, 50, mean), (0, 0.0, 0.0))
    verdict = court.verdict("same")
    assert (verdict.outcome.value, verdict.measure, verdict.margin) == (outcome, "agreement", 0.6)
    assert verdict.lower is not None
    assert verdict.upper is not None
    assert verdict.lower < mean < verdict.upper
    assert (verdict.samples, verdict.met) == (2000, outcome == "PASS")
    assert "agreement of the first 10 items" in verdict.explanation
    assert "in 2,000 pairs of answers" in verdict.explanation


def test_a_rank_correlation_is_shown_as_kendalls_tau_and_a_difference_of_scores_must_stay_below() -> None:
    court = Court(shadow(RANKS, SCORES), step=0)
    for _ in range(20):
        court.moments("order", (100, 80.0, 64.0), (0, 0.0, 0.0))
        court.moments("scores", (100, 10.0, 1.0), (0, 0.0, 0.0))
    order, scores = court.verdict("order"), court.verdict("scores")
    assert (order.outcome.value, order.margin, order.value) == ("PASS", pytest.approx(0.2), pytest.approx(0.6))
    assert (scores.outcome.value, scores.margin, scores.value) == ("PASS", 0.3, pytest.approx(0.1))
    assert "at most 0.3" in scores.explanation


def test_a_version_that_begins_to_answer_otherwise_is_seen_soon_after_long_agreement() -> None:
    court, rng = Court(shadow(AGREEMENT), step=0), np.random.default_rng(6)
    for _ in range(300):
        court.moments("same", pairs(rng, 50, 0.8), (0, 0.0, 0.0))
    assert court.verdict("same").outcome.value == "PASS"
    windows = 0
    while court.verdict("same").outcome.value != "FAIL":
        court.moments("same", pairs(rng, 50, 0.3), (0, 0.0, 0.0))
        windows += 1
    assert windows <= 5


def test_answers_just_at_the_limit_are_taken_back_and_called_proven_no_more_often_than_allowed() -> None:
    failed = proven = 0
    for seed in range(60):
        court, rng = Court(shadow(AGREEMENT, alpha=0.2), step=0), np.random.default_rng(1000 + seed)
        outcomes = set()
        for _ in range(12):
            values = (rng.random(120) < 0.6).astype(float)  # all or nothing, which varies most
            court.moments("same", (120, float(values.sum()), float(values.sum())), (0, 0.0, 0.0))
            outcomes.add(court.verdict("same").outcome.value)
        failed += "FAIL" in outcomes
        proven += "PASS" in outcomes
    # At most 0.2 each, but for 4 standard deviations of the count.
    assert failed <= 60 * 0.2 + 4 * (60 * 0.16) ** 0.5
    assert proven <= 60 * 0.2 + 4 * (60 * 0.16) ** 0.5


def answers(path: Any, users: list[str]) -> list[AnsweredEntity]:
    ranked = recommend(load_model(path), users, k=10)  # type: ignore[arg-type]
    return [
        AnsweredEntity(user=user, items=tuple(items), scores=tuple(scores))
        for user, items, scores in zip(users, ranked.items, ranked.scores, strict=True)
    ]


@pytest.mark.integration
@pytest.mark.browser
@pytest.mark.xdist_group("strategies_similarity")
def test_a_shadow_that_answers_otherwise_is_taken_back_and_one_that_answers_alike_ends_well(
    shared_plane: Any, wanted: Any, bundle: Any, real_predictors: Any, rollout: Any, visitors: Any
) -> None:
    plane = shared_plane
    paths = {"1": bundle(0.0), "2": bundle(4.0), "3": bundle(0.02)}
    users = [str(user) for user in range(60)]
    alike = {
        version: np.mean([
            compare(one, other).agreement_at[3]
            for one, other in zip(answers(paths["1"], users), answers(paths[version], users), strict=True)
        ])
        for version in "23"
    }  # fmt: skip
    assert alike["2"] < 0.5 < 0.8 < alike["3"]
    arms = [plane.arm(version, replicas=1, bundle=path) for version, path in paths.items()]
    wanted(plane, arms, {"films-v1": 100, "films-v2": 0, "films-v3": 0})
    plane.up(**real_predictors)
    plane.eventually(lambda: all(arm.ready == 1 for arm in plane.observed.arms.values()))
    run = rollout(plane, {"strategy": "shadow", "steps": [STEP], "guardrails": [AGREEMENT, RANKS]}, arms=arms)
    with visitors(plane.gateway_port, users=60, clients=2, pause=0.002) as load:
        run.until(lambda: run.state is not None and run.state.terminal, seconds=120.0)
    assert load.codes == {200: load.sent}
    assert load.versions == {"1": load.sent}
    assert run.state.phase is Phase.COMPLETED, run.state.reason
    assert set(run.state.dropped) == {"films-v2"}
    assert "not at least 0.6, by the evidence" in run.state.dropped["films-v2"]
    last = {(verdict.guardrail, verdict.arm): verdict for verdict in run.state.verdicts}
    same = last["same", "films-v3"]
    assert (same.outcome.value, same.value) == ("PASS", pytest.approx(alike["3"], abs=0.02))
    explained = explanation_of(run.folder)
    costs = explained["resources"]
    assert set(costs) == {"films-v1", "films-v2", "films-v3"}
    for cost in costs.values():
        assert 0.05 < cost["cpu_milliseconds"] < 1000
        assert 20 < cost["mebibytes"] < 2000
        assert cost["mebibyte_seconds"] > 0
        assert cost["processes"] == 1
    assert costs["films-v3"]["answers"] > costs["films-v2"]["answers"] > 0  # the second one was stopped
    text = explanation_text(explained, all_looks=False)
    assert "What an answer costs" in text
    assert "ms of a processor" in text
    looks = [decision for decision in explained["decisions"] if decision["guardrails"]]
    queries = {
        one["guardrail"]: one["queries"]["films-v3"] for one in looks[-1]["guardrails"] if one["arm"] != CANDIDATE
    }
    assert queries["same"].startswith('slipway_shadow_agreement_at_total{model="films",version="3",at="10"}')
    with served(plane.directory) as page:
        look_at(page.base, run.folder.id)


def look_at(base: str, rollout: str) -> None:
    """Opens the rollout's page on a phone: limits, what the stopped one came to, and what answers cost."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 390, "height": 844})
        problems: list[str] = []
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(f"{base}/rollouts/{rollout}")
        tab.get_by_text("films-v2 is no longer in it.").wait_for()
        same = tab.locator("article[data-guardrail=same]")
        assert same.count() == 2
        cards = {card.locator("h3").inner_text(): card for card in same.all()}
        assert "Limit" in cards["same of films-v3"].inner_text()
        assert "Stable" not in cards["same of films-v3"].inner_text()
        assert "FAIL" in cards["same of films-v2"].inner_text()
        assert cards["same of films-v3"].locator(".chart .marginlabel").text_content() == "limit 0.6"
        assert tab.locator("#costs tbody tr").count() == 3
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        assert problems == []
        chromium.close()
