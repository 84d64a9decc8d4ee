"""A sweep of a whole project with its real steps: what trials see, what is kept, and how failures are told."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.cli.main import run_command_line
from slipway.components.evaluate.step import EvaluateRequest
from slipway.components.evaluate.step import run as evaluate
from slipway.components.featurize.step import FeaturizeRequest
from slipway.components.featurize.step import run as featurize
from slipway.components.progress import Progress
from slipway.components.train.step import TrainRequest
from slipway.components.train.step import run as train
from slipway.components.tune.holdout import HoldoutRequest
from slipway.components.tune.holdout import run as hold_out
from slipway.components.tune.step import TrialRequest
from slipway.components.tune.step import run as run_trial
from slipway.components.validate.step import ValidateRequest
from slipway.components.validate.step import run as validate
from slipway.contracts.artifacts import read_manifest
from slipway.contracts.errors import ArtifactError, DataError, UsageError
from slipway.contracts.files import exclusive_lock
from slipway.contracts.project import Project, load_project
from slipway.contracts.split import SplitSpec
from slipway.pipelines.runners.job import RUN_FILE, RunReport, StepReport

# Nobody listens there: MLflow is away, and trials need not import it.
NOWHERE = "http://127.0.0.1:9"
PROJECT = f"""\
apiVersion: slipway.dev/v1alpha1
name: shop
data:
  interactions: {{source: events.parquet, columns: {{user: person, item: thing, timestamp: at}}}}
split: {{method: last_share, share: 0.2, minimum_users: 20}}
features: {{views: [user_activity]}}
model: {{parameters: {{factors: 8, epochs: 3}}, features: [user_activity]}}
evaluation: {{k: [5]}}
tracking: {{uri: "{NOWHERE}"}}
sweep:
  objective: {{metric: ndcg@5}}
  algorithm: random
  parameters:
    factors: {{type: int, min: 4, max: 16}}
    regularization: {{type: double, min: 0.001, max: 1, log: true}}
  max_trials: 2
  max_failed_trials: 2
"""
BROKEN = """
from slipway.contracts.errors import DataError
from slipway.models.popularity import Popularity

class Broken(Popularity):
    family = "broken:Broken"

    @classmethod
    def fit(cls, *arguments, **named):
        raise DataError("this family cannot learn", where="broken")
"""


def write_events(file: Path, people: int = 120, things: int = 60) -> None:
    random = np.random.default_rng(3)
    rows = [
        (person, thing)
        for person in range(people)
        for thing in random.choice(things, 14, replace=False)
        if thing % 4 == person % 4 or random.random() < 0.3
    ]
    moments = np.datetime64("2026-01-01", "us") + np.sort(random.integers(0, 60 * 86_400, len(rows))) * np.timedelta64(
        1, "s"
    )
    table = {
        "person": [f"person-{person}" for person, _ in rows],
        "thing": [f"thing-{thing}" for _, thing in rows],
        "at": pa.array(moments, pa.timestamp("us")),
    }
    pq.write_table(pa.table(table), file)


def write_run(project: Project) -> None:
    """Writes what `slipway run` leaves of its first two steps."""
    directory = project.state / "runs" / "first"
    dataset, features = directory / "validate" / "dataset", directory / "featurize" / "features"
    validate(ValidateRequest(data=project.data, output=dataset, base=project.directory), Progress())
    request = FeaturizeRequest(dataset=dataset, output=features, split=project.split, features=project.features)
    featurize(request, Progress())
    steps = [
        StepReport(step="validate", status="ran", outputs={"dataset": dataset}),
        StepReport(step="featurize", status="ran", outputs={"features": features}),
    ]
    report = RunReport(
        project=project.name, run_id="first", directory=directory, status="done", started="2026-01-01", steps=steps
    )
    (directory / RUN_FILE).write_text(report.model_dump_json())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after its first run."""
    folder = tmp_path_factory.mktemp("whole")
    write_events(folder / "events.parquet")
    (folder / "slipway.yaml").write_text(PROJECT)
    write_run(load_project(folder))
    return folder


@pytest.fixture
def project(whole: Path, tmp_path: Path) -> Path:
    """A copy of the project of a test's own; its run's report still names the first folder, which stays as it is."""
    return Path(shutil.copytree(whole, tmp_path / "shop"))


@pytest.fixture(scope="module")
def tuning(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The features that trials choose on."""
    run, target = whole / ".slipway" / "runs" / "first", tmp_path_factory.mktemp("tuning") / "features"
    request = HoldoutRequest(
        dataset=run / "validate" / "dataset",
        features=run / "featurize" / "features",
        output=target,
        split=SplitSpec(method="last_share", share=0.2),
        views=load_project(whole).features,
    )
    hold_out(request, Progress())
    return target


def pairs(file: Path) -> set[tuple[str, str]]:
    table = pq.read_table(file, columns=["user", "item"])
    return set(zip(table.column("user").to_pylist(), table.column("item").to_pylist(), strict=True))


def test_trials_see_nothing_of_what_the_run_held_out(whole: Path, tuning: Path) -> None:
    features = whole / ".slipway" / "runs" / "first" / "featurize" / "features"
    held_out, known = pairs(features / "test.parquet"), pairs(features / "train.parquet")
    own_train, own_test = pairs(tuning / "train.parquet"), pairs(tuning / "test.parquet")
    assert own_train | own_test == known
    assert own_test
    assert not own_train & own_test
    assert not (own_train | own_test) & held_out
    read_manifest(tuning, kind="features", verify=True)


def test_features_of_another_dataset_are_refused(whole: Path, tmp_path: Path, tuning: Path) -> None:
    run = whole / ".slipway" / "runs" / "first"
    request = HoldoutRequest(dataset=run / "validate" / "dataset", features=tuning, output=tmp_path / "none")
    with pytest.raises(ArtifactError, match="another dataset"):
        hold_out(request, Progress())
    assert not (tmp_path / "none").exists()


def trial(tuning: Path, output: Path, **changes: Any) -> TrialRequest:
    content = {
        "features": str(tuning),
        "output": output,
        "objective": "ndcg@5",
        "evaluation": {"k": [5]},
        "model": {"parameters": {"epochs": 2, "factors": 4}},
        "parameters": {"factors": "8", "regularization": "1e-05"},
        "types": {"factors": "int", "regularization": "double"},
    }
    return TrialRequest.model_validate(content | changes)


def test_a_trial_finds_what_the_steps_find_with_its_parameters(tuning: Path, tmp_path: Path) -> None:
    result = run_trial(trial(tuning, tmp_path / "trial"), Progress())
    assert (result.parameters["factors"], result.parameters["regularization"]) == (8, 1e-05)
    model = {"parameters": {"epochs": 2, "factors": 8, "regularization": 1e-05}}
    bundle, measured = tmp_path / "bundle", tmp_path / "evaluation"
    train(
        TrainRequest.model_validate({"features": tuning, "output": bundle, "model": model, "tracking_uri": NOWHERE}),
        Progress(),
    )
    request = {"features": tuning, "model": bundle, "output": measured, "evaluation": {"k": [5]}}
    assert result.metrics == evaluate(EvaluateRequest.model_validate(request), Progress()).metrics
    assert not (tmp_path / "trial" / "model").exists()
    assert len(json.loads((tmp_path / "trial" / "curves.json").read_text())["epochs"]) == 2
    read_manifest(tmp_path / "trial" / "evaluation", kind="evaluation", verify=True)


@pytest.mark.parametrize("metric", ["ndcg@5", "auc", "coverage@5"])
def test_what_is_reported_after_an_epoch_is_what_a_training_of_so_many_epochs_reaches(
    tuning: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str
) -> None:
    model = {"parameters": {"epochs": 3, "factors": 4}, "features": ["user_activity"]}
    run_trial(trial(tuning, tmp_path / "all", objective=metric, report_epochs=True, model=model), Progress())
    lines = re.findall(rf"^\S+Z {metric}=(\S+)$", capsys.readouterr().out, re.MULTILINE)
    shorter = [
        run_trial(
            trial(tuning, tmp_path / str(epochs), model=model | {"parameters": {"epochs": epochs, "factors": 4}}),
            Progress(),
        ).metrics[metric]
        for epochs in (1, 2, 3)
    ]
    assert [float(line) for line in lines] == pytest.approx(shorter, rel=1e-12)
    assert len(set(shorter)) == 3, "otherwise nothing was compared"
    assert "=" not in capsys.readouterr().out, "nobody looks at the others"


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"parameters": {"factors": "8.5", "regularization": "1"}}, UsageError, "'8.5' is no int"),
        ({"parameters": {"factors": "many", "regularization": "1"}}, UsageError, "'many' is no int"),
        ({"parameters": {"factors": "8"}}, UsageError, "do not match: regularization"),
        ({"parameters": {"factor": "8"}, "types": {"factor": "int"}}, UsageError, "did you mean 'factors'"),
        ({"objective": "ndcg@7"}, DataError, "gives no value for ndcg@7"),
    ],
)
def test_a_trial_that_cannot_be_says_why(
    tuning: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=re.escape(says)):
        run_trial(trial(tuning, tmp_path / "trial", **changes), Progress())


def test_a_whole_number_may_be_written_with_a_point(tuning: Path, tmp_path: Path) -> None:
    values = {"factors": "8.0", "regularization": "1"}
    assert run_trial(trial(tuning, tmp_path / "trial", parameters=values), Progress()).parameters["factors"] == 8


@pytest.fixture
def tune(project: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Returns a function that calls `slipway tune` on the project: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run_command_line(["tune", "-f", str(project), *arguments])
        shown = capfd.readouterr()
        assert "Traceback" not in shown.err
        return code, shown.out, shown.err

    return call


@pytest.mark.integration
def test_a_sweep_ends_with_best_parameters_an_artifact_a_page_and_runs_in_mlflow(
    project: Path, tune: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = tune("-o", "json", "--set", "tracking.uri=null")
    assert code == 0, err
    report = json.loads(out)
    assert [trial["status"] for trial in report["trials"]] == ["Succeeded"] * 2
    best = max(report["trials"], key=lambda trial: trial["value"])
    assert report["best"]["name"] == best["name"]
    own = report["baseline"]["value"]
    assert f"the project's own parameters: {own:.4f}" in err
    command = re.findall(r"^next: (slipway run .*)$", err, re.MULTILINE)
    assert bool(command) is (best["value"] > own)
    assert all(f"--set model.parameters.factors={best['parameters']['factors']}" in line for line in command)

    manifest = read_manifest(Path(report["artifact"]), kind="sweep", verify=True)
    assert {entry.path for entry in manifest.files} == {"best.json", "experiment.json", "report.html", "trials.json"}
    status = json.loads((Path(report["artifact"]) / "experiment.json").read_text())["status"]
    assert status["currentOptimalTrial"]["bestTrialName"] == best["name"]
    page = Path(report["page"]).read_text()
    assert best["name"].rpartition("-")[0] in page
    # Names of SVG's own vocabulary are no addresses that anything is loaded from.
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)|url\((?!#)|@import", page)

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/.slipway/mlflow.db")
    identifier = client.get_experiment_by_name("shop").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([identifier])}
    parent = runs[report["name"]]
    assert parent.data.params["best.factors"] == str(best["parameters"]["factors"])
    for one in report["trials"]:
        child = runs[one["name"]]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.metrics["ndcg_at_5"] == pytest.approx(one["value"])
        assert child.data.params["factors"] == str(one["parameters"]["factors"])


@pytest.mark.integration
def test_a_sweep_of_which_every_trial_fails_exits_with_1_and_the_reason(
    project: Path, tune: Callable[..., tuple[int, str, str]]
) -> None:
    (project / "broken.py").write_text(BROKEN)
    code, out, err = tune("--set", "model.family=broken:Broken", "--set", "model.features=[]")
    assert code == 1
    assert "2 of 2 trials failed" in err
    assert "the commonest reason: broken: this family cannot learn" in err
    assert "Failed" in out
    assert list((project / ".slipway" / "sweeps").glob("*/result/report.html"))


def test_two_sweeps_of_one_project_exclude_each_other(project: Path, tune: Callable[..., tuple[int, str, str]]) -> None:
    with exclusive_lock(project / ".slipway" / "sweep.lock", holder="sweep of the test", remedy=""):
        code, _, err = tune()
    assert code == 1
    assert "sweep of the test" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "sweep.parameters.factor={type: int, min: 1, max: 2}"], "Did you mean 'factors'?"),
        (["--set", "sweep.objective.metric=ndcg@9"], "Add 9 to evaluation.k"),
        (["--set", "sweep=null"], "has no sweep"),
        (["--run", "second"], "Make features first: slipway run"),
        (["--set", "split.share=0.4"], "in another way than the project file now says"),
        (["--lint", "nothing.yaml"], "cannot be read"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_starts(
    project: Path, tune: Callable[..., tuple[int, str, str]], arguments: list[str], says: str
) -> None:
    code, out, err = tune(*arguments)
    assert code == 2
    assert says in err
    assert not out
    assert not (project / ".slipway" / "sweeps").exists()


def test_render_prints_what_lint_takes(project: Path, tune: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = tune("--render")
    assert code == 0
    file = project / "experiment.yaml"
    file.write_text(out)
    assert tune("--lint", str(file))[0] == 0
    file.write_text(out.replace("maxFailedTrialCount", "maxFailedTrialsCount"))
    code, _, err = tune("--lint", str(file))
    assert code == 2
    assert "spec.maxFailedTrialCount" in err
    assert tune("--render")[1] == out
