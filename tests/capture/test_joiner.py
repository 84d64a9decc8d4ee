"""Feedback counts once, in time, for the version that answered; both counters grow together."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.contracts.events import FeedbackData, PredictionEvent, RequestSigner, prediction_event
from slipway.serving.capture.joiner import Joined, Joiner

SIGNER = RequestSigner(b"k" * 32)
START = 1_700_000_000.0


class Setting:
    """A joiner with a clock that the test moves."""

    def __init__(self, **options: Any) -> None:
        self.now = START
        self.counted: list[tuple[str, str]] = []
        self.late: list[dict[str, Any]] = []
        self.joiner = Joiner(
            SIGNER,
            **({"wait": 2.0, "expiry": 60.0} | options),
            on_feedback=lambda model, outcome: self.counted.append((model, outcome)),
            on_late=self.late.append,
        )

    def event(self, *items: str, version: str = "2", signer: RequestSigner = SIGNER) -> PredictionEvent:
        data = {
            "request_id": signer.issue("films", version, self.now),
            "model": "films",
            "version": version,
            "latency_ms": 1.0,
            "entities": [{"user": "u", "items": list(items or ("a", "b"))}],
        }
        return PredictionEvent.model_validate(prediction_event(data, seconds=self.now))

    def answer(self, *items: str, version: str = "2") -> str:
        event = self.event(*items, version=version)
        assert self.joiner.prediction(event, self.now)
        return event.data.request_id

    def feedback(self, request_id: str, item: str = "a", kind: str = "click") -> str:
        return self.joiner.feedback(FeedbackData(request_id=request_id, item=item, type=kind), self.now)

    def after(self, seconds: float) -> list[Joined]:
        self.now = START + seconds
        return list(self.joiner.tick(self.now))


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_a_request_counts_once_when_its_time_is_over_clicked_or_not(setting: Setting) -> None:
    clicked, ignored = setting.answer(), setting.answer(version="1")
    assert setting.feedback(clicked) == "accepted"
    assert setting.after(1.99) == []
    joined = setting.after(2.0)
    assert {(one.version, one.clicked) for one in joined} == {("2", True), ("1", False)}
    assert setting.after(3.0) == []
    assert ignored != clicked


def test_numerator_and_denominator_mature_together_at_every_moment(setting: Setting) -> None:
    requests = joined = clicked = 0
    for step in range(200):
        setting.now = START + step * 0.05
        request_id = setting.answer()
        setting.feedback(request_id)  # every request is clicked at once
        requests += 1
        for one in setting.joiner.tick(setting.now):
            joined += 1
            clicked += one.clicked
        assert clicked == joined  # a count at the click would be ahead of the requests here
    assert joined == requests - 40


def test_repeated_feedback_counts_once_a_type(setting: Setting) -> None:
    request_id = setting.answer()
    assert [setting.feedback(request_id) for _ in range(3)] == ["accepted", "duplicate", "duplicate"]
    assert setting.feedback(request_id, "b") == "accepted"
    assert setting.feedback(request_id, "a", "rating") == "accepted"
    (joined,) = setting.after(2.0)
    assert len(joined.feedback) == 3
    assert setting.feedback(request_id) == "duplicate"  # also after it was counted


def test_an_item_that_was_not_in_the_answer_does_not_count(setting: Setting) -> None:
    request_id = setting.answer("a")
    assert setting.feedback(request_id, "z") == "unknown"
    (joined,) = setting.after(2.0)
    assert not joined.clicked


def test_other_feedback_than_a_click_is_kept_and_is_no_click(setting: Setting) -> None:
    setting.feedback(setting.answer(), kind="rating")
    (joined,) = setting.after(2.0)
    assert not joined.clicked
    assert joined.feedback[0]["data"]["type"] == "rating"


def test_late_feedback_is_kept_and_does_not_count(setting: Setting) -> None:
    request_id = setting.answer()
    (joined,) = setting.after(2.5)
    assert setting.feedback(request_id) == "late"
    assert not joined.clicked
    assert [event["outcome"] for event in setting.late] == ["late"]


def test_expired_forged_and_unknown_feedback_is_told_apart(setting: Setting) -> None:
    old = setting.answer()
    setting.after(61.0)
    assert setting.feedback(old) == "expired"
    assert setting.feedback(RequestSigner(b"x" * 32).issue("films", "2", setting.now)) == "forged"
    never_sent = SIGNER.issue("films", "2", setting.now - 30)
    assert setting.feedback(never_sent) == "unknown"
    assert setting.counted == [("films", "expired"), ("", "forged"), ("films", "unknown")]


def test_feedback_that_overtakes_its_prediction_waits_for_it(setting: Setting) -> None:
    event = setting.event("a")
    request_id = event.data.request_id
    assert setting.feedback(request_id, "a") == "held"
    assert setting.feedback(request_id, "z") == "held"
    assert setting.counted == []
    assert setting.joiner.prediction(event, setting.now)
    assert setting.counted == [("films", "accepted"), ("films", "unknown")]
    (joined,) = setting.after(2.0)
    assert joined.clicked


def test_held_feedback_whose_prediction_never_comes_is_unknown_in_the_end(setting: Setting) -> None:
    assert setting.feedback(SIGNER.issue("films", "2", START)) == "held"
    setting.after(8.0)
    assert setting.counted == [("films", "unknown")]
    assert setting.joiner.held == 0


def test_a_prediction_event_that_is_forged_or_of_another_version_is_not_believed(setting: Setting) -> None:
    assert not setting.joiner.prediction(setting.event(signer=RequestSigner(b"x" * 32)), START)
    event = setting.event(version="2")
    changed = event.model_copy(update={"data": event.data.model_copy(update={"version": "1"})})
    assert not setting.joiner.prediction(changed, START)
    assert setting.after(5.0) == []


def test_a_prediction_sent_twice_counts_once(setting: Setting) -> None:
    event = setting.event()
    for _ in range(2):
        assert setting.joiner.prediction(event, START)
    assert len(setting.after(2.0)) == 1


def test_a_late_event_still_counts_the_click_that_came_in_time(setting: Setting) -> None:
    event = setting.event()
    setting.now = START + 1
    setting.feedback(event.data.request_id)
    setting.after(3.0)
    setting.joiner.prediction(event, setting.now)
    (joined,) = setting.after(3.05)
    assert joined.clicked


def test_memory_is_bounded_by_requests_and_by_feedback_of_one() -> None:
    setting = Setting(maximum_requests=100)
    ids = [setting.answer() for _ in range(500)]
    assert len(setting.joiner) == 100
    assert setting.joiner.forgotten == 400
    assert len(setting.after(2.0)) == 100
    outcomes = {setting.feedback(ids[-1], "a", f"type{number}") for number in range(1000)}
    assert outcomes == {"late", "unknown"}
    for _ in range(100):
        setting.feedback(SIGNER.issue("films", "2", setting.now))
    assert setting.joiner.held == 10
    setting.after(100.0)
    assert len(setting.joiner) == setting.joiner.held == 0
