"""What makes a cached outcome stale: code that the step reaches, the project's own modules, tables' content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slipway.pipelines import fingerprints


def test_the_code_of_a_step_is_what_it_imports_and_nothing_else() -> None:
    reached = fingerprints._closure("slipway.components.validate.step")
    assert "slipway.datasets.sources" in reached, "an import at the top counts"
    assert not [name for name in reached if name.startswith(("slipway.serving", "slipway.cli", "slipway.models"))]
    families = fingerprints._closure("slipway.models.families")
    assert "slipway.models.popularity" in families, "a family that is named in a table counts"


def test_changed_code_of_the_project_changes_the_fingerprint(tmp_path: Path) -> None:
    module = "slipway.components.validate.step"
    (tmp_path / "my_model.py").write_text("x = 1\n")
    without = fingerprints.code_fingerprint(module)
    first = fingerprints.code_fingerprint(module, tmp_path)
    assert first not in (without,)
    (tmp_path / ".slipway").mkdir()
    (tmp_path / ".slipway" / "generated.py").write_text("y = 1\n")
    assert fingerprints.code_fingerprint(module, tmp_path) == first, "state is not code"
    (tmp_path / "my_views.py").write_text("x = 2\n")
    assert fingerprints.code_fingerprint(module, tmp_path) != first


def test_a_table_is_known_by_its_content_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "events" / "a.csv"
    table.parent.mkdir()
    table.write_text("user,item\n1,2\n")
    memory = tmp_path / "memory.json"
    first = fingerprints.sources_fingerprint(["events"], tmp_path, memory)
    assert fingerprints.sources_fingerprint(["events"], tmp_path, memory) == first

    reads: list[Path] = []
    original = fingerprints.sha256_of_file
    monkeypatch.setattr(fingerprints, "sha256_of_file", lambda path: (reads.append(path), original(path))[1])
    os.utime(table, (1, 1))
    assert fingerprints.sources_fingerprint(["events"], tmp_path, memory) == first, "touched, not changed"
    assert reads == [table]
    assert fingerprints.sources_fingerprint(["events"], tmp_path, memory) == first
    assert reads == [table]

    table.write_text("user,item\n1,3\n")
    assert fingerprints.sources_fingerprint(["events"], tmp_path, memory) != first
    table.write_text("user,item\n1,2\n")
    assert fingerprints.sources_fingerprint(["events"], tmp_path, memory) == first
    (tmp_path / "events" / "b.csv").write_text("user,item\n1,2\n")
    assert fingerprints.sources_fingerprint(["events"], tmp_path, memory) != first
    memory.write_text("not JSON")
    fingerprints.sources_fingerprint(["events"], tmp_path, memory)
