from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from slipway.cli.main import run_command_line
from slipway.components.featurize.step import FeaturizeRequest, run
from slipway.components.progress import Progress
from slipway.contracts.artifacts import write_artifact
from slipway.contracts.split import SplitSpec

pytestmark = pytest.mark.integration


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that has made features once."""
    count = 30
    table = pa.table(
        {
            "user": [f"u{index % 3}" for index in range(count)],
            "item": [f"i{index}" for index in range(count)],
            "timestamp": [datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=index) for index in range(count)],
        }
    )
    with write_artifact(tmp_path / "dataset", kind="dataset", slipway_version="test") as draft:
        pq.write_table(table, draft.path / "interactions.parquet")
    file = {"apiVersion": "slipway.dev/v1alpha1", "name": "films", "data": {"interactions": {"source": "x.csv"}}}
    (tmp_path / "slipway.yaml").write_text(yaml.safe_dump(file))
    output = tmp_path / ".slipway" / "runs" / "1" / "featurize" / "output"
    split = SplitSpec(method="leave_last_out", minimum_users=1)
    run(FeaturizeRequest(dataset=tmp_path / "dataset", output=output, split=split), Progress())
    return tmp_path


def test_materialize_and_get_show_what_is_online(
    project: Path, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["-f", str(project), "--redis", redis_url]
    assert run_command_line(["features", "materialize", *where, "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["view"], row["rows"]) for row in rows] == [("user_activity", 3), ("item_popularity", 27)]
    assert run_command_line(["features", "get", "user_activity", "u1", "nobody", *where, "-o", "json"]) == 0
    known, unknown = json.loads(capsys.readouterr().out)
    assert known["status"] == "present"
    assert known["features"]["events"] == 9
    assert known["age_seconds"] > 3 * 3600
    assert unknown == {
        "user": "nobody",
        "status": "missing",
        "age_seconds": None,
        "features": dict.fromkeys(known["features"]),
    }
    assert run_command_line(["features", "get", "user_activity", "u1", *where]) == 0
    assert "events_7d" in capsys.readouterr().out


def test_apply_makes_a_repository_of_the_project(
    project: Path, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["features", "apply", "-f", str(project), "--redis", redis_url, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["views"] == ["user_activity", "item_popularity"]
    config = yaml.safe_load((project / ".slipway" / "feast" / "feature_store.yaml").read_text())
    assert config["online_store"]["url"] == redis_url


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["get", "user_activty", "u1", "--redis", "redis://127.0.0.1:1/0"], 2, "user_activity"),
        (["get", "user_activity", "u1", "--redis", "redis://127.0.0.1:1/0"], 1, "Redis"),
        (["get", "user_activity", "u1"], 2, "slipway up"),
        (["materialize", "--redis", "http://x"], 1, "redis://"),
        (["materialize", "--artifact", "nowhere", "--redis", "redis://127.0.0.1:1/0"], 1, "no artifact"),
    ],
)
def test_mistakes_are_told_in_a_line(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run_command_line(["features", *arguments, "-f", str(project)]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
