"""Which windows belong to a step: those that begin when its weights were in force, and no other."""

from __future__ import annotations

from dataclasses import replace

from slipway.contracts.rollout import ASSIGNMENT
from tests.support.judging import CANDIDATE, STABLE, Court, policy_of

ERRORS = {"name": "errors", "kind": "errors", "margin": {"absolute": 0.01}}


def within_the_first_window() -> Court:
    """Returns a rollout whose step begins in the middle of the first window."""
    court = Court(policy_of(ERRORS))
    court.state = replace(court.state, step_since=0.5)
    return court


def test_a_window_that_began_under_other_weights_is_evidence_but_no_sample_of_the_step() -> None:
    court = within_the_first_window()
    court.count("errors", (20, 50), (0, 50))
    first = court.verdict("errors")
    assert (first.step_samples, first.samples) == (0, 50)
    assert first.log_evidence_harm > 1.0
    court.count("errors", (0, 40), (0, 60))
    assert court.verdict("errors").step_samples == 40


def test_a_window_in_which_the_weights_changed_says_nothing_about_the_split() -> None:
    court = within_the_first_window()
    court.counts([(ASSIGNMENT, CANDIDATE, 0, 5), (ASSIGNMENT, STABLE, 0, 500)])
    assert court.state.splits == {}
    court.counts([(ASSIGNMENT, CANDIDATE, 0, 250), (ASSIGNMENT, STABLE, 0, 250)])
    assert court.state.splits[CANDIDATE].total_n == 500
