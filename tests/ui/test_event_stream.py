"""Decisions from a history: complete, certain, and ended."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import pytest
from rollout_playback import CANDIDATE, STABLE, Player, create, end_as, spec_of

from slipway.cli.explanation import decision_line, explanation_text
from slipway.contracts.errors import ArtifactError, ServiceError
from slipway.serving.rollout.core.types import Phase
from slipway.serving.rollout.event_stream import HistoryReader, explanation_of, follow
from slipway.serving.rollout.store import RolloutFolder


def test_the_readings_of_all_decisions_are_what_the_last_verdict_rests_on(folder: RolloutFolder) -> None:
    Player(folder).play(30)
    decisions = HistoryReader(folder).new()
    read: Counter[tuple[str, str]] = Counter()
    for decision in decisions:
        for verdict in decision.guardrails:
            for arm, reading in verdict["readings"].items():
                read[verdict["guardrail"], arm] += reading["n"]
    last = decisions[-1]
    assert last.guardrails
    for verdict in last.guardrails:
        if verdict["guardrail"] != "assignment":
            assert read[verdict["guardrail"], CANDIDATE] == verdict["samples"] > 100
            assert read[verdict["guardrail"], STABLE] == verdict["stable_samples"] > 100
    assert last.weights == {CANDIDATE: 50, STABLE: 50}
    assert (last.phase, last.step, last.evidence) == ("Progressing", 2, last.sequence)
    assert "minimum" in last.rule or "waiting" in last.rule or "left" in last.rule


def test_a_change_without_a_new_look_names_the_look_that_it_rests_on(folder: RolloutFolder) -> None:
    player = Player(folder, error_rate=0.6).play(25)
    assert player.record.state.phase is Phase.ROLLED_BACK
    decisions = HistoryReader(folder).new()
    failed = next(decision for decision in decisions if any(v["outcome"] == "FAIL" for v in decision.guardrails))
    assert "Evidence of harm" in failed.rule
    end = decisions[-1]
    assert end.guardrails == ()
    assert end.evidence is not None
    assert decisions[end.evidence - 1].guardrails
    assert [decision.sequence for decision in decisions] == list(range(1, len(decisions) + 1))


def test_lines_that_the_state_does_not_know_of_are_not_told(folder: RolloutFolder) -> None:
    player = Player(folder).play(8)
    reader = HistoryReader(folder)
    known = reader.new()
    assert known
    with (folder.path / "history.jsonl").open("a") as handle:  # killed between the two writes
        handle.write(json.dumps({"type": "event", "at": 1.0, "kind": "phase", "message": "never decided"}) + "\n{")
    assert reader.new() == []
    player.look()
    later = reader.new()
    assert later
    assert all("never decided" not in event["message"] for decision in later for event in decision.events)
    assert [d.to_dict() for d in (*known, *later)] == [d.to_dict() for d in HistoryReader(folder).new()]


def test_the_stream_ends_with_the_rollout(folder: RolloutFolder) -> None:
    player = Player(folder)
    messages = []
    reading = threading.Thread(
        target=lambda: messages.extend(follow(folder, lambda: True, interval=0.01)), name="follower"
    )
    reading.start()
    player.play(8)
    folder.give("abort", "somebody")
    player.play(5)
    reading.join(timeout=20)
    assert not reading.is_alive()
    assert messages[-1]["type"] == "end"
    assert messages[-1]["phase"] == "RolledBack"
    assert "Aborted by somebody" in messages[-1]["reason"]
    told = [json.loads(decision_line(message, "json")) for message in messages[:-1]]
    assert told == [decision.to_dict() | {"events": list(decision.events), "guardrails": list(decision.guardrails)}
                    for decision in HistoryReader(folder).new()]  # fmt: skip
    assert any(event["kind"] == "command" for decision in told for event in decision["events"])


def test_a_stream_of_a_rollout_that_nothing_runs_says_so(folder: RolloutFolder) -> None:
    Player(folder).play(3)
    with pytest.raises(ServiceError, match="slipway up"):
        list(follow(folder, lambda: False, patience=0.05, interval=0.01))


def test_the_explanation_says_readings_bounds_rule_and_query(folder: RolloutFolder) -> None:
    Player(folder, error_rate=0.15).play(40)
    document = json.loads(json.dumps(explanation_of(folder)))
    assert document["phase"] == "RolledBack"
    assert document["meanings"]["verdicts"].keys() == {"PASS", "FAIL", "INCONCLUSIVE", "ERROR"}
    text = explanation_text(document, all_looks=False)
    assert "Evidence of harm" in text
    assert "films-v2: " in text
    assert 'requests_total{code=~"5.."} out of requests_total' in text
    assert "requires noHarm" in text
    assert len(explanation_text(document, all_looks=True)) > len(text)


def test_histories_of_an_earlier_format_can_be_read(tmp_path: Path) -> None:
    folder = create(tmp_path, spec_of("20270103-000000-000-films-v2"))
    end_as(folder, Phase.PROMOTED, "films-v2 serves all traffic.", 1000.0)
    content = json.loads((folder.path / "state.json").read_text())
    content["state"]["unheard_of"] = 1
    lines = [
        {"type": "event", "at": 5.0, "kind": "phase", "message": "Pending -> Starting: begins."},
        {"type": "verdicts", "at": 6.0, "step": 0, "weights": {CANDIDATE: 20}, "verdicts": []},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder.path / "history.jsonl").write_text(text)
    (folder.path / "state.json").write_text(json.dumps(content | {"history_bytes": len(text)}))
    first, second = HistoryReader(folder).new()
    assert (first.phase, first.step, first.weights, first.evidence) == ("", None, {}, None)
    assert (second.step, second.weights, second.evidence) == (1, {CANDIDATE: 20}, 2)
    (folder.path / "state.json").write_text('{"state": {"phase": 3}}')
    with pytest.raises(ArtifactError, match=r"state\.json"):
        HistoryReader(folder).new()
