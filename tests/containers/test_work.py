"""The images at work: the film sample from raw ratings to a registered model, and answers from it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from container_engine import ROOT, Engine, images
from ended_process import end

from slipway.contracts.bundle import bundle_digest, read_bundle

pytestmark = [pytest.mark.container, pytest.mark.timeout(1500)]

PROBE = Path(__file__).with_name("imported.py")
STEPS = ("validate", "featurize", "train-classical", "evaluate", "batch_predict", "register")
NEEDED = {*STEPS, "predictor"}

# Images in which other steps run too: what only those load.
FOR_OTHERS = {"register": {"duckdb"}}

# What an image holds although a plain run does not load it, and why.
ON_DEMAND = {
    "kfp": "the executor that KFP starts a task with",
    "redis": "the online store, where a request names one",
    "tzdata": "data that pandas reads for zones that the system lacks",
    "async-timeout": "what redis requires of Pythons before 3.11.3",
    "h11": "uvicorn's other HTTP implementation, which it requires",
    "httpcore": "what httpx sends with: for a predictor of the project's own that asks another server",
    "certifi": "of httpx, as httpcore",
    "importlib-metadata": "what OpenTelemetry's entry points need where Python's own is older",
    "zipp": "of importlib-metadata",
}


@dataclass
class Work:
    """A folder with the project, and what each step printed and imported."""

    folder: Path
    outcomes: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    def result(self, step: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / f"out-{step}" / "result.json").read_text())
        return content

    def unused(self, part: str) -> set[str]:
        loaded: dict[str, bool] = json.loads((self.folder / f"{part}.imported.json").read_text())
        return {name for name, used in loaded.items() if not used}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def get(url: str, body: dict[str, Any] | None = None) -> bytes:
    content_type = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), content_type)
    with urllib.request.urlopen(request, timeout=10) as answer:
        content: bytes = answer.read()
        return content


@contextmanager
def running(command: list[str], ready: str, log: Path, seconds: float = 400) -> Iterator[None]:
    """Runs a server until the block ends; `ready` is a URL that answers once it serves."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                get(ready)
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.1)
        yield
    finally:
        end(process)


def requests_of(project: dict[str, Any], tracking: str) -> dict[str, dict[str, Any]]:
    data = project["data"]
    data["interactions"]["source"], data["items"]["source"] = "ratings.csv", "films.parquet"
    model = project["model"] | {"parameters": {"factors": 32, "epochs": 3}}
    gates = [{"metric": "auc", "minimum": 0.7}]
    return {
        "validate": {"data": data, "output": "dataset"},
        "featurize": {
            "dataset": "dataset",
            "output": "features",
            "split": project["split"],
            "features": project["features"],
        },
        "train-classical": {
            "features": "features",
            "output": "model",
            "name": "films",
            "model": model,
            "tracking_uri": tracking,
        },
        "evaluate": {
            "features": "features",
            "model": "model",
            "dataset": "dataset",
            "output": "evaluation",
            "evaluation": project["evaluation"],
            "gates": gates,
            "split": project["split"],
        },
        "batch_predict": {"bundle": "model", "input": "users.csv", "output": "top.parquet", "features": "features"},
        "register": {
            "name": "films",
            "model": "model",
            "evaluation": "evaluation",
            "features": "features",
            "dataset": "dataset",
            "output": "registration",
            "tracking_uri": tracking,
            "project_directory": ".",
        },
    }


@pytest.fixture(scope="module")
def work(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    """Runs every step as a container, one after the other, over one mounted folder."""
    if missing := NEEDED - set(images()):
        pytest.skip(f"not built: {', '.join(sorted(missing))}")
    from slipway.datasets.samples import open_sample

    folder = tmp_path_factory.mktemp("films")
    # The containers' user is another one than this process's.
    for place in (folder, *folder.parents[:3]):
        place.chmod(0o777)
    pyarrow.csv.write_csv(open_sample("samples://movielens-small"), folder / "ratings.csv")
    pq.write_table(open_sample("samples://movielens-small/items"), folder / "films.parquet")
    (folder / "users.csv").write_text("user\n1\n2\n3\nnobody\n")
    (folder / "imported.py").write_text(PROBE.read_text())
    port = free_port()
    tracking = f"http://127.0.0.1:{port}"
    project = yaml.safe_load((ROOT / "examples" / "films" / "slipway.yaml").read_text())
    mlflow = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    mlflow += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/mlartifacts",
    ]
    made = Work(folder)
    with running(mlflow, f"{tracking}/health", folder / "mlflow.log"):
        for part, request in requests_of(project, tracking).items():
            step = part.removesuffix("-classical")
            (folder / f"{part}.json").write_text(json.dumps(request))
            made.outcomes[part] = engine.run(
                part,
                *("imported.py", f"{part}.imported.json", f"slipway.components.{step}"),
                *("--request", f"{part}.json", "--outcome", f"out-{part}"),
                flags=["--entrypoint", "python"],
                work=folder,
                network="host" if "tracking_uri" in request else "none",
            )
            if made.outcomes[part].returncode:
                break
        yield made


@pytest.mark.parametrize("part", STEPS)
def test_step_runs_confined(work: Work, part: str) -> None:
    assert part in work.outcomes, "an earlier step failed"
    assert work.outcomes[part].returncode == 0, work.outcomes[part].stderr[-3000:]
    assert "result.json" in {path.name for path in (work.folder / f"out-{part}").iterdir()}


@pytest.mark.parametrize("part", STEPS)
def test_image_holds_only_what_its_part_imports(work: Work, part: str) -> None:
    assert work.unused(part) - set(ON_DEMAND) - FOR_OTHERS.get(part, set()) == set()


def test_container_makes_the_bytes_that_the_process_makes(work: Work) -> None:
    process = [sys.executable, "-m", "slipway.components.validate", "--request", "validate.json", "--output", "here"]
    subprocess.run(process, cwd=work.folder, check=True, capture_output=True)
    inside = (work.folder / "dataset" / "manifest.json").read_bytes()
    assert inside == (work.folder / "here" / "manifest.json").read_bytes()


def test_training_reaches_mlflow(work: Work) -> None:
    assert work.result("train-classical")["warnings"] == []


def test_registering_makes_a_version_of_the_bundle_in_mlflow(work: Work) -> None:
    registered = work.result("register")
    assert (registered["version"], registered["new"]) == ("1", True)
    folder = work.folder / ".slipway" / "bundles" / "films"
    digests = [bundle_digest(read_bundle(bundle)) for bundle in folder.iterdir()]
    assert digests == [registered["bundle_sha256"]]


def test_kfp_starts_a_task_in_the_image(work: Work, engine: Engine) -> None:
    from slipway.contracts.project import load_project
    from slipway.pipelines.compile import compile_training

    (work.folder / "slipway.yaml").write_text((ROOT / "examples" / "films" / "slipway.yaml").read_text())
    compile_training(load_project(work.folder / "slipway.yaml"), work.folder / "pipeline.yaml")
    pipeline = next(yaml.safe_load_all((work.folder / "pipeline.yaml").read_text()))
    container = pipeline["deploymentSpec"]["executors"]["exec-validate"]["container"]
    task = json.loads((work.folder / "validate.json").read_text())
    values = dict.fromkeys(("data_fingerprint", "code_fingerprint", "environment_fingerprint"), "")
    outputs = {
        name: {
            "artifacts": [{"name": name, "type": {"schemaTitle": kind}, "uri": f"/work/task/{name}", "metadata": {}}]
        }
        for name, kind in (
            ("dataset", "system.Dataset"),
            ("metrics", "system.Metrics"),
            ("report", "system.Markdown"),
        )
    }
    executor_input = {
        "inputs": {
            "parameterValues": values
            | {"config": json.dumps({"data": task["data"]}), "place": '{"base": "/work"}', "timeout": "5m"}
        },
        "outputs": {"artifacts": outputs, "outputFile": "/work/task/output.json"},
    }
    arguments = [*container["command"], *container["args"]]
    filled = [json.dumps(executor_input) if text == "{{$}}" else text for text in arguments]
    outcome = engine.run("validate", *filled[1:], flags=["--entrypoint", filled[0]], work=work.folder)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    inside = (work.folder / "task" / "dataset" / "manifest.json").read_bytes()
    assert inside == (work.folder / "dataset" / "manifest.json").read_bytes()
    assert (work.folder / "task" / "output.json").is_file()


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("components.extract", "validate"),
        ("components.notify", "validate"),
        ("pipelines.submission", "validate"),
        ("components.observe", "register"),
    ],
)
def test_steps_that_share_an_image_find_their_packages_there(
    work: Work, engine: Engine, module: str, part: str
) -> None:
    outcome = engine.run(part, "-m", f"slipway.{module}", "--help", flags=["--entrypoint", "python"])
    assert outcome.returncode == 0, outcome.stderr


def test_predictor_answers_as_the_process_does_and_ends_well(work: Work, engine: Engine) -> None:
    question = {"instances": [{"user": "1"}, {"user": "2", "k": 5}, {"user": "nobody"}]}
    answers = {}
    for place in ("container", "process"):
        http, metrics = free_port(), free_port()
        options = ["--model", "films", "--version", "1", "--http-port", str(http), "--grpc-port", str(free_port())]
        options += ["--metrics-port", str(metrics)]
        if place == "container":
            probe = ["imported.py", "predictor.imported.json", "slipway.serving.predictor"]
            options += ["--bundle", "model", "--key-file", "/tmp/key"]
            command = engine.command(
                "predictor", *probe, *options, flags=["--entrypoint", "python"], work=work.folder, network="host"
            )
        else:
            options += ["--bundle", str(work.folder / "model"), "--key-file", str(work.folder / "key")]
            command = [sys.executable, "-m", "slipway.serving.predictor", *options]
        address = f"http://127.0.0.1:{http}"
        with running(command, f"{address}/v1/models/films", work.folder / f"{place}.log"):
            answer = json.loads(get(f"{address}/v1/models/films:predict", question))
            answers[place] = answer["predictions"]
            assert re.search(rb"^slipway_\w+", get(f"http://127.0.0.1:{metrics}/metrics"), re.MULTILINE)
    assert answers["container"] == answers["process"]
    assert len(answers["container"]) == 3
    assert work.unused("predictor") - set(ON_DEMAND) == set()


def test_batch_answers_belong_to_the_numeric_user(work: Work) -> None:
    table = pq.read_table(work.folder / "top.parquet")
    assert table.num_rows == 40
    assert (work.folder / "top.parquet").stat().st_uid == 65532
