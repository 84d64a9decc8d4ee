"""The cache of step outcomes: a hit is whole, and belongs to exactly what it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.components import cache as cache_module
from slipway.components.cache import CacheEntry, StepCache, fingerprint_of_output
from slipway.components.wrapper import step_key
from slipway.contracts.artifacts import write_artifact


@pytest.fixture
def cache(tmp_path: Path) -> StepCache:
    """A cache with one entry, `count` under key "k", whose artifact holds one.txt."""
    made = tmp_path / "first" / "numbers"
    with write_artifact(made, kind="numbers", slipway_version="1") as draft:
        (draft.path / "one.txt").write_text("1")
    found = StepCache(tmp_path / "cache")
    entry = CacheEntry(
        step="count",
        key="k",
        outputs={"numbers": fingerprint_of_output(made)},
        metrics={"count": 1.0},
        result={"output": str(made), "other": "/elsewhere"},
        folder=str(made.parent),
    )
    found.put(entry, {"numbers": made})
    return found


def test_a_hit_brings_the_files_and_the_result_with_its_new_paths(cache: StepCache, tmp_path: Path) -> None:
    target = tmp_path / "second" / "numbers"
    entry = cache.take("count", "k", {"numbers": target})
    assert entry is not None
    assert (target / "one.txt").read_text() == "1"
    assert entry.result_at(target.parent) == {"output": str(target), "other": "/elsewhere"}
    assert cache.take("count", "another key", {"numbers": target}) is None
    assert cache.take("count", "k", {"letters": target}) is None


@pytest.mark.parametrize("damage", ["changed", "missing", "emptied", "entry"])
def test_what_is_not_whole_is_no_hit(cache: StepCache, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "cache" / "count" / "k"
    file = folder / ("entry.json" if damage == "entry" else "numbers/one.txt")
    if damage == "missing":
        file.unlink()
    else:
        file.write_text("" if damage == "emptied" else "2")
    target = tmp_path / "second" / "numbers"
    assert cache.take("count", "k", {"numbers": target}) is None
    assert not target.exists()


def test_an_entry_replaces_an_older_one_and_leaves_nothing_behind(cache: StepCache, tmp_path: Path) -> None:
    entry = cache.peek("count", "k")
    assert entry is not None
    cache.put(entry.model_copy(update={"metrics": {"count": 2.0}}), {"numbers": tmp_path / "first" / "numbers"})
    again = cache.peek("count", "k")
    assert again is not None
    assert again.metrics == {"count": 2.0}
    assert [path.name for path in (tmp_path / "cache" / "count").iterdir()] == ["k"]


def test_where_links_are_impossible_files_are_copied(
    cache: StepCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(cache_module.os, "link", refuse)
    assert cache.take("count", "k", {"numbers": tmp_path / "second" / "numbers"}) is not None


def test_the_key_holds_everything_that_decides_the_outcome() -> None:
    facts = {"code": "c", "environment": "e", "data": "d", "surroundings": ""}
    base = step_key("train", '{"a": 1, "b": 2}', {"features": "f"}, **facts)
    assert step_key("train", '{"b": 2, "a": 1}', {"features": "f"}, **facts) == base
    others = [
        step_key("tune", '{"a": 1, "b": 2}', {"features": "f"}, **facts),
        step_key("train", '{"a": 1, "b": 3}', {"features": "f"}, **facts),
        step_key("train", '{"a": 1, "b": 2}', {"features": "g"}, **facts),
        *(step_key("train", '{"a": 1, "b": 2}', {"features": "f"}, **(facts | {name: "x"})) for name in facts),
    ]
    assert len({base, *others}) == len(others) + 1
