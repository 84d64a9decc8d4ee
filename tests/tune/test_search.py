"""What is searched and in which order: designs that are fixed, hyperband's brackets, the median stopping rule."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sweeps import toy_experiment

from slipway.pipelines.sweeps.hyperband import Outcome, is_done, next_suggestion, rungs
from slipway.pipelines.sweeps.median_stop import falls_behind, median_of_starts
from slipway.pipelines.sweeps.search_space import as_text, design_point, distributions, make_sampler

SPACE = {
    "x": {"type": "double", "min": -5, "max": 5},
    "n": {"type": "int", "min": 2, "max": 8, "step": 2},
    "kind": {"type": "categorical", "values": ["a", [64, 32]]},
    "rate": {"type": "discrete", "values": [0.1, 1e-05]},
}


def test_a_sobol_sequence_begins_in_the_middle_and_fills_the_space_evenly() -> None:
    document = toy_experiment({"x": SPACE["x"], "y": SPACE["x"]}, algorithm="sobol", max_trials=64)
    points = [design_point(document, number) for number in range(63)]
    assert points[0] == {"x": 0.0, "y": 0.0}
    assert points == [design_point(document, number) for number in range(63)]
    for name in ("x", "y"):
        values = [point[name] for point in points if point is not None]
        # Each of eight equal parts has as many points as the others, but for the corner that is left out.
        counts = [sum(math.floor((value + 5) / 10 * 8) == part for value in values) for part in range(8)]
        assert min(counts) >= 7
        assert max(counts) <= 8


def test_a_sobol_point_has_a_value_for_every_kind_of_parameter() -> None:
    document = toy_experiment(SPACE, algorithm="sobol")
    points = [design_point(document, number) or {} for number in range(32)]
    assert {point["n"] for point in points} == {2, 4, 6, 8}
    assert {point["kind"] for point in points} == {"a", "[64,32]"}
    assert {point["rate"] for point in points} == {"0.1", "1e-05"}


def test_a_grid_has_each_point_once_and_ends() -> None:
    space = {**SPACE, "x": {"type": "double", "min": 0, "max": 0.3, "step": 0.1}}
    document = toy_experiment(space, algorithm="grid")
    points = [design_point(document, number) for number in range(4 * 4 * 2 * 2)]
    assert None not in points
    assert len({str(point) for point in points}) == len(points)
    assert design_point(document, len(points)) is None


@pytest.mark.parametrize("algorithm", ["random", "tpe", "cmaes", "bayesianoptimization"])
def test_a_resumed_sweep_does_not_draw_again_what_it_drew(algorithm: str) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    log = {"type": "double", "min": 0.1, "max": 5, "log": True}
    space = {"x": log, "y": log} if algorithm == "bayesianoptimization" else {"x": SPACE["x"], "y": SPACE["x"]}
    document = toy_experiment(space, algorithm=algorithm)

    def drawn(numbers: range) -> list[dict[str, Any]]:
        study = optuna.create_study()
        values = []
        for number in numbers:
            study.sampler = make_sampler(document, number)
            values.append(study.ask(distributions(document)).params)
        return values

    assert drawn(range(3)) == drawn(range(3))
    # A new process begins at the number at which the old one was killed.
    assert drawn(range(3, 4))[0] not in drawn(range(3))


def test_numbers_are_handed_on_as_they_are_drawn() -> None:
    assert as_text({"a": 0.1 + 0.2, "b": 3, "c": "[64,32]"}) == {"a": repr(0.1 + 0.2), "b": "3", "c": "[64,32]"}


def test_hyperband_has_the_brackets_of_the_paper() -> None:
    # Table 1 of Li et al. 2018, R = 81 and eta = 3.
    table = [[(rung.count, rung.resource) for rung in bracket] for bracket in rungs(81, 3)]
    assert table[0] == [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)]
    assert table[2] == [(15, 9), (5, 27), (2, 81)]
    assert table[4] == [(5, 81)]


def hyperband_to_its_end(failing: frozenset[int]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while not is_done(outcomes, 9, 3, maximize=True):
        suggestion = next_suggestion(outcomes, 9, 3, maximize=True)
        assert suggestion is not None
        number = len(outcomes)
        values = suggestion.values or {"x": float(number)}
        value = None if number in failing else values["x"]
        rung = suggestion.rung
        outcomes.append(Outcome(rung.bracket, rung.step, values, finished=True, value=value))
        assert len(outcomes) < 100
    return outcomes


def test_the_best_of_a_rung_go_on_with_more() -> None:
    outcomes = hyperband_to_its_end(frozenset())
    first = [row for row in outcomes if row.bracket == 2]
    assert [row.values["x"] for row in first if row.step == 1] == [8.0, 7.0, 6.0]
    assert [row.values["x"] for row in first if row.step == 2] == [8.0]
    assert len(outcomes) == sum(rung.count for bracket in rungs(9, 3) for rung in bracket)


def test_what_failed_goes_no_further_and_hyperband_still_ends() -> None:
    outcomes = hyperband_to_its_end(frozenset(range(1, 9)))
    assert [row.values["x"] for row in outcomes if (row.bracket, row.step) == (2, 1)] == [0.0]
    assert hyperband_to_its_end(frozenset(range(100)))


def test_hyperband_waits_for_the_whole_rung() -> None:
    rung = rungs(9, 3)[0][0]
    running = [Outcome(2, 0, {"x": 1.0}, finished=number > 0, value=1.0) for number in range(rung.count)]
    assert next_suggestion(running, 9, 3, maximize=True) is None
    assert not is_done(running, 9, 3, maximize=True)


def test_the_median_is_over_the_means_of_the_beginnings() -> None:
    curves = [[1.0, 3.0, 100.0], [4.0, 4.0], [9.0, 11.0, 0.0]]
    assert median_of_starts(curves, min_trials=3, start_step=2) == 4.0
    assert median_of_starts(curves[:2], min_trials=3, start_step=2) is None


@pytest.mark.parametrize(
    ("reports", "maximize", "behind"),
    [
        ([0.1, 0.2], True, True), ([0.1, 0.6], True, False), ([0.6, 0.1], True, False), ([0.1], True, False),
        ([0.9, 0.8], False, True), ([0.9, 0.2], False, False),
    ],
)  # fmt: skip
def test_a_trial_is_judged_by_the_best_that_it_has_reported(reports: list[float], maximize: bool, behind: bool) -> None:
    assert falls_behind(reports, 0.5, start_step=2, maximize=maximize) is behind
    assert not falls_behind(reports, None, start_step=2, maximize=maximize)
