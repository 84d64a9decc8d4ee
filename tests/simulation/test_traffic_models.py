"""Windows of synthetic traffic: nothing is made up or lost that the model does not say."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from slipway.contracts.errors import UsageError
from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.simulation.effects import (
    NO_EFFECT,
    Effect,
    grid_of_effects,
    is_harmful,
    odds_ratio,
    parse_effect,
)
from slipway.serving.rollout.simulation.traffic import SCENARIOS, EventRate, TrafficModel, event_rates, scenario
from slipway.serving.rollout.simulation.windows import Population, Traffic, Windows

RATES = {"errors": EventRate(0.02, "errors"), "clicks": EventRate(0.2, "clicks", good=True)}
MODEL = TrafficModel(50, 10, RATES)
RUNS = 200


def drawn(model: TrafficModel, effect: Effect = NO_EFFECT, looks: int = 40, weight: int = 25) -> list[Windows]:
    """Returns the windows of RUNS rollouts at one weight."""
    traffic = Traffic(model, effect, RUNS, np.random.SeedSequence(5))
    rows = np.arange(RUNS)
    return [traffic.draw(rows, np.full(RUNS, weight)) for _ in range(looks)]


def rate(windows: list[Windows], name: str, arm: str) -> float:
    """Returns events out of n over all windows that were read."""
    counts = [(getattr(window, arm)[name], window.readable) for window in windows]
    events = sum(int(count.events[read].sum()) for count, read in counts)
    return events / sum(int(count.n[read].sum()) for count, read in counts)


def requests(windows: list[Windows]) -> int:
    """Returns the requests of both arms in the windows that were read."""
    return sum(int(part[window.readable].sum()) for window in windows for part in window.requests)


def test_constant_traffic_has_the_load_split_and_rates_that_it_says() -> None:
    windows = drawn(MODEL, Effect("errors", 1.0))
    assert requests(windows) == pytest.approx(RUNS * 40 * 500, rel=0.01)
    share = sum(int(window.requests[0].sum()) for window in windows) / requests(windows)
    assert share == pytest.approx(0.25, abs=0.002)
    assert rate(windows, "errors", "stable") == pytest.approx(0.02, abs=0.0005)
    assert rate(windows, "errors", "candidate") == pytest.approx(0.03, abs=0.0005)
    assert rate(windows, "clicks", "candidate") == pytest.approx(0.2, abs=0.001)
    exposed = sum(float(window.exposed.sum()) for window in windows)
    assert exposed == pytest.approx(0.01 * sum(int(window.requests[0].sum()) for window in windows))


def test_what_a_failed_scrape_leaves_out_comes_with_the_next_reading() -> None:
    windows = drawn(replace(MODEL, scrape_gaps=0.4))
    read = [window for window in windows if window.readable[0]]
    assert 10 < len(read) < 35
    for earlier, later in itertools.pairwise(read):
        assert later.start[0] == earlier.end
    assert requests(windows) == pytest.approx(RUNS * 40 * 500, rel=0.03)


def test_a_reset_loses_requests_and_leaves_the_rates_alone() -> None:
    windows = drawn(replace(MODEL, counter_resets=60))
    assert requests(windows) < 0.95 * RUNS * 40 * 500
    assert rate(windows, "errors", "candidate") == pytest.approx(0.02, abs=0.0006)
    assert all((window.candidate["errors"].events <= window.candidate["errors"].n).all() for window in windows)


def test_a_restart_costs_errors_and_is_counted() -> None:
    windows = drawn(replace(MODEL, restarts=60))
    assert windows[-1].restarts.mean() == pytest.approx(40 * 60 / 360, rel=0.1)
    assert rate(windows, "errors", "stable") == pytest.approx(0.02 + 0.02 / 6, abs=0.001)


@pytest.mark.parametrize("change", [{"day": 0.5}, {"drift": 2.0}, {"bad_minutes": 20.0}])
def test_what_moves_the_base_rate_moves_both_arms(change: dict[str, float]) -> None:
    moved = drawn(replace(MODEL, day=change.get("day", 0), drift=change.get("drift", 0),
                          bad_minutes=change.get("bad_minutes", 0)))  # fmt: skip
    by_run = [
        np.sum([getattr(window, arm)["errors"].events for window in moved], axis=0)
        / np.sum([getattr(window, arm)["errors"].n for window in moved], axis=0)
        for arm in ("candidate", "stable")
    ]
    assert by_run[1].std() > 0.003 or by_run[1].mean() > 0.04
    assert by_run[0].mean() == pytest.approx(by_run[1].mean(), rel=0.03)


def test_bursts_vary_more_than_poisson() -> None:
    loads = np.array([window.requests[0] + window.requests[1] for window in drawn(replace(MODEL, burstiness=1.0))])
    assert loads.mean() == pytest.approx(500, rel=0.05)
    assert loads.std() == pytest.approx(500, rel=0.1)


def test_sticky_users_give_the_arms_rates_of_their_own_and_others_do_not() -> None:
    model = replace(MODEL, users=400, spread=0.1)
    sticky = Population.draw(replace(model, sticky=True), RUNS, np.random.default_rng(1))
    rows, weights = np.arange(RUNS), np.full(RUNS, 50)
    gap = sticky.rate("clicks", "candidate", rows, weights, 0.2) - sticky.rate("clicks", "stable", rows, weights, 0.2)
    # Exponential activities double the variance of a mean over 200 users, of each arm.
    assert gap.std() == pytest.approx(np.sqrt(2 * 2 * 0.1 * 0.2 * 0.8 / 200), rel=0.15)
    assert sticky.share(rows, weights).mean() == pytest.approx(0.5, abs=0.02)
    free = Population.draw(model, RUNS, np.random.default_rng(1))
    same = [free.rate("clicks", arm, rows, weights, 0.2) for arm in ("candidate", "stable")]
    np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_array_equal(free.share(rows, weights), 0.5)


def test_surroundings_do_not_depend_on_who_decides() -> None:
    model = scenario("bad-minutes", replace(MODEL, scrape_gaps=0.2))
    few, many = drawn(model, weight=5), drawn(model, weight=60)
    for one, other in zip(few, many, strict=True):
        np.testing.assert_array_equal(one.readable, other.readable)
        np.testing.assert_array_equal(one.start, other.start)


def test_effects_are_read_and_measured() -> None:
    assert parse_effect("errors+0.5") == Effect("errors", 0.5)
    assert parse_effect("clicks-5%") == Effect("clicks", -5.0, relative=True)
    assert [str(parse_effect(text)) for text in ("none", "errors+0.5", "clicks-5%")] == [
        "none",
        "errors+0.5",
        "clicks-5%",
    ]
    assert odds_ratio(Effect("errors", 1.0), 0.01) == pytest.approx((0.02 / 0.98) / (0.01 / 0.99))
    with pytest.raises(UsageError, match="is not an effect"):
        parse_effect("errors")


def test_harm_is_what_lies_beyond_every_margin() -> None:
    policy = RolloutPolicy.model_validate({"preset": "standard"})
    # Errors tolerate an odds ratio of 1.5 or one point, whichever is more.
    assert not is_harmful(Effect("errors", 0.9), policy, 0.005)
    assert is_harmful(Effect("errors", 1.1), policy, 0.005)
    assert is_harmful(Effect("clicks", -12.0, relative=True), policy, 0.15)
    assert not is_harmful(Effect("clicks", -5.0, relative=True), policy, 0.15)
    assert not is_harmful(Effect("clicks", 20.0, relative=True), policy, 0.15)
    assert not is_harmful(NO_EFFECT, policy, 0.15)
    assert {str(effect) for effect in grid_of_effects(policy)} >= {"none", "errors+0.2", "latency+100%", "clicks-20%"}


def test_rates_are_given_by_name_or_kind_and_anything_else_is_refused() -> None:
    policy = RolloutPolicy.model_validate({"preset": "standard"})
    assert event_rates(policy, {"clicks": 0.03})["clicks"] == EventRate(0.03, "clicks", good=True, by_feedback=True)
    for given in ({"views": 0.1}, {"clicks": 0.0}, {"clicks": 3.0}):
        with pytest.raises(UsageError):
            event_rates(policy, given)
    with pytest.raises(UsageError, match="sticky-users"):
        scenario("weather", MODEL)
    assert all(scenario(name, MODEL) != MODEL for name in SCENARIOS if name != "constant")


def test_what_waits_for_feedback_is_the_same_later_and_its_window_is_that_of_the_requests() -> None:
    rates = {**RATES, "clicks": replace(RATES["clicks"], by_feedback=True)}
    at_once, late = drawn(replace(MODEL, rates=rates)), drawn(replace(MODEL, rates=rates, feedback_wait=30))
    assert late[0].late == {"errors": 0.0, "clicks": 30.0}
    for arm in ("candidate", "stable"):
        assert not any(getattr(window, arm)["clicks"].n.any() for window in late[:3])
        for before, after in zip(at_once, late[3:], strict=False):
            assert (getattr(before, arm)["clicks"].events == getattr(after, arm)["clicks"].events).all()
        for before, after in zip(at_once, late, strict=True):
            assert (getattr(before, arm)["errors"].events == getattr(after, arm)["errors"].events).all()
