"""The assignment file: read on change, and a broken one changes nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from slipway.contracts.errors import UsageError
from slipway.contracts.files import write_atomically, write_json
from slipway.serving.router.assignment_file import AssignmentFile, parse_assignment

GOOD: dict[str, Any] = {"salt": "s", "layer": "films", "arms": {"films-v1": 50, "films-v2": 50}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b'{"salt": "s"', "not JSON"),
        (b"[]", "not a JSON object"),
        (json.dumps({"salt": "s", "layer": "l"}).encode(), "'arms' is missing"),
        (json.dumps(GOOD | {"armz": 1}).encode(), "'armz' is unknown"),
        (json.dumps(GOOD | {"salt": ""}).encode(), "not empty"),
        (json.dumps(GOOD | {"layer": 3}).encode(), "must be texts"),
        (json.dumps(GOOD | {"arms": [50, 50]}).encode(), "object of weights"),
        (json.dumps(GOOD | {"arms": {"a": 10}}).encode(), "sum to 10"),
        (json.dumps(GOOD | {"arms": {"a": "x"}}).encode(), "'x'"),
        (json.dumps(GOOD | {"arms": {}}).encode(), "at least one arm"),
        (json.dumps(GOOD | {"stable": "films-v3"}).encode(), "none of the arms"),
    ],
)
def test_what_is_wrong_is_said(content: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_assignment(content)


def test_it_is_read_on_change_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "assignment.json"
    file = AssignmentFile(path)
    assert not file.refresh()
    assert file.current is None
    assert file.problem
    write_json(path, GOOD)
    assert file.refresh()
    assert file.problem is None
    first = file.current
    assert first is not None
    assert dict(first.arms) == GOOD["arms"]
    assert not file.refresh()
    write_json(path, GOOD)
    assert not file.refresh(), "the same content moves nobody"
    assert file.current is first
    write_json(path, GOOD | {"arms": {"films-v1": 10, "films-v2": 90}})
    assert file.refresh()
    assert file.current is not None
    assert dict(file.current.arms) == {"films-v1": 10, "films-v2": 90}


def test_a_broken_file_keeps_the_last_good_one_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "assignment.json"
    write_json(path, GOOD)
    file = AssignmentFile(path)
    file.refresh()
    good = file.current
    write_atomically(path, '{"salt"')
    with caplog.at_level(logging.ERROR):
        assert not any([file.refresh(), file.refresh(), file.refresh()])
    assert file.current is good
    assert [record.message for record in caplog.records if "last good one stays" in record.message].__len__() == 1
    assert str(path) in caplog.text
    path.unlink()
    assert not file.refresh()
    assert file.current is good
    assert file.problem
    write_json(path, GOOD)
    assert not file.refresh()
    assert file.problem is None


def test_a_named_stable_makes_another_assignment(tmp_path: Path) -> None:
    path = tmp_path / "assignment.json"
    three = GOOD | {"arms": {"a": 20, "b": 20, "c": 60}}
    write_json(path, three)
    file = AssignmentFile(path)
    file.refresh()
    write_json(path, three | {"stable": "c"})
    assert file.refresh()
