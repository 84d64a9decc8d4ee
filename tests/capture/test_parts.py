"""Captured lines are written whole and go when their time has come."""

from __future__ import annotations

import os
from pathlib import Path

from slipway.serving.capture.parts import PartWriter

DAY = 86_400.0


def lines_of(directory: Path) -> list[bytes]:
    return [line for part in sorted(directory.rglob("*.jsonl")) for line in part.read_bytes().splitlines()]


def test_a_part_is_due_when_it_is_full_or_old(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, "joined", rows=3, seconds=10)
    assert not writer.due(1000.0)
    writer.add(b"1", 1000.0)
    assert not writer.due(1009.0)
    assert writer.due(1010.0)
    writer.add(b"2", 1001.0)
    writer.add(b"3", 1001.0)
    assert writer.due(1001.0)
    assert writer.flush(1001.0) == 3
    assert writer.flush(1001.0) == 0
    assert lines_of(tmp_path) == [b"1", b"2", b"3"]
    assert next(tmp_path.rglob("*.jsonl")).stat().st_mode & 0o777 == 0o600


def test_parts_are_removed_by_age_and_by_total_size_oldest_first(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, "joined", retention_days=2, maximum_bytes=25)
    now = 10 * DAY
    for age in range(5):
        writer.add(b"%d" % age * 9, now - age * DAY)
        writer.flush(now - age * DAY)
    for part in tmp_path.rglob("*.jsonl"):
        written = int(part.name.split("-")[1]) / 1000
        os.utime(part, (written, written))
    assert writer.clean(now) == 3
    assert lines_of(tmp_path) == [b"1" * 9, b"0" * 9]
    assert len(list((tmp_path / "joined").iterdir())) == 2  # the empty days are gone


def test_lines_that_cannot_be_written_wait_and_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "joined").write_text("a file where the folder should be")
    writer = PartWriter(tmp_path, "joined", rows=2)
    for number in range(100):
        writer.add(b"%d" % number, 0.0)
    assert writer.flush(0.0) == 0
    (tmp_path / "joined").unlink()
    assert 0 < writer.flush(0.0) <= 40
    assert lines_of(tmp_path)[-1] == b"99"
