"""Measures a model on held-out interactions, beside popularity and the champion, and checks the gates.

The `evaluation` artifact holds metrics.json (every metric with its protocol), gates.json, rankings.parquet (user, rank,
item, score: the very lists that serving gives), per_user.parquet and report.md. Failed gates do not end the step: the
report is needed most then. `register` refuses.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from slipway.components.evaluate.gates import check_gates
from slipway.components.evaluate.judge import Judged, columns_for, judge
from slipway.components.evaluate.report import markdown
from slipway.components.evaluate.slices import make_slices
from slipway.components.evaluate.summary import protocol_of, summarise
from slipway.components.evaluate.task import Task, read_task
from slipway.components.latest_features import LatestFeatures
from slipway.components.progress import Progress
from slipway.contracts.artifacts import ArtifactDraft, Parent, read_manifest, write_artifact
from slipway.contracts.bundle import bundle_digest, read_bundle
from slipway.contracts.errors import BundleError
from slipway.contracts.evaluation import EvaluationSpec, GateResult, GateSpec
from slipway.contracts.files import write_atomically, write_json
from slipway.contracts.split import SplitSpec
from slipway.models.families import load_model
from slipway.models.interface import Recommender


class EvaluateRequest(BaseModel):
    """What to evaluate and where the evaluation goes.

    `features` and `model` are artifacts; `dataset`, if given, has tables of users and items to slice by. `champion` is
    the bundle that serves now; where it is in an object store only, `champion_uri` is its address and `champion_sha256`
    its digest. `split` says how `features` was split. Sources and own modules are relative to
    `project_directory`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: Path
    model: Path
    output: Path
    dataset: Path | None = None
    champion: Path | None = None
    champion_uri: str | None = None
    champion_sha256: str = ""
    evaluation: EvaluationSpec = EvaluationSpec()
    gates: tuple[GateSpec, ...] = ()
    split: SplitSpec = SplitSpec()
    project_directory: Path = Path()


class EvaluateResult(BaseModel):
    """What was found. `metrics` are those of the whole, by name; `passed` says whether every gate was met."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Path
    fingerprint: str
    passed: bool
    failed_gates: tuple[str, ...]
    warnings: tuple[str, ...]
    metrics: dict[str, float]


def run(request: EvaluateRequest, progress: Progress) -> EvaluateResult:
    """Evaluates a model.

    Raises:
        ArtifactError: An input is not whole.
        BundleError: The model is corrupt.
        DataError: Nobody can be evaluated, or candidates do not fit.
        UsageError: A slice names no column.
        ServiceError: The object store with the champion does not answer.
    """
    spec = request.evaluation
    progress.stage("reading", total=None)
    manifest = read_bundle(request.model)
    model = load_model(request.model, verify=False, base=request.project_directory)
    task = read_task(request.features, spec, request.project_directory)
    folders = [request.features, *([request.dataset] if request.dataset else [])]
    tables = [folder / f"{name}.parquet" for folder in folders for name in ("items", "users")]
    slices = make_slices(task, spec.slices, tables, maximum_values=spec.maximum_slice_values)
    request = _with_champion(request)
    champion, warnings = _champion(request)

    contestants: dict[str, Recommender] = {"model": model, "popularity": task.baseline}
    if champion is not None:
        contestants["champion"] = champion
    judged: dict[str, Judged] = {}
    for name, contestant in contestants.items():
        progress.stage(f"ranking for {len(task.users):,} users: {name}", total=len(task.users))
        values = LatestFeatures(request.features, contestant.views, lenient=name == "champion")
        if values.missing:
            warnings.append(
                f"the champion reads {', '.join(values.missing)}, which is no longer made: defaults stand in"
            )
        judged[name] = judge(
            contestant,
            task,
            ks=spec.k,
            features=values.of,
            exclude_seen=spec.exclude_seen,
            item_slices=slices.items,
            own_history=name != "champion",
            on_users=progress.advance,
        )

    progress.stage("comparing", total=None)
    summary = summarise(task, judged, slices, spec, protocol_of(task, spec, request.split))
    warnings += _warnings(task, request, judged["model"])
    gates = check_gates(
        summary, request.gates, minimum_users=request.split.minimum_users, has_champion=champion is not None
    )
    parents = [
        read_manifest(request.features).as_parent("features"),
        Parent(name="model", kind="bundle", fingerprint=bundle_digest(manifest)),
    ]
    if champion is not None and request.champion is not None:
        digest = bundle_digest(read_bundle(request.champion, verify=False))
        parents.append(Parent(name="champion", kind="bundle", fingerprint=digest))
    version = importlib.metadata.version("slipway")
    with write_artifact(request.output, kind="evaluation", slipway_version=version) as draft:
        draft.parents = parents
        write_json(draft.path / "metrics.json", summary | {"warnings": warnings})
        write_json(draft.path / "gates.json", _gates_content(gates))
        write_atomically(draft.path / "report.md", markdown(summary, gates, warnings))
        _write_rankings(draft, task, judged["model"])
        _write_users(draft, task, judged, spec)
    for warning in warnings:
        progress.note(f"warning: {warning}")
    values_found = {name: entry["value"] for name, entry in summary["metrics"].items() if entry["value"] is not None}
    for name, value in values_found.items():
        progress.metric(name, value)
    return EvaluateResult(
        output=request.output,
        fingerprint=read_manifest(request.output).fingerprint,
        passed=all(gate.passed for gate in gates),
        failed_gates=tuple(gate.why for gate in gates if not gate.passed),
        warnings=tuple(warnings),
        metrics=values_found | {"users": float(len(task.users))},
    )


def _with_champion(request: EvaluateRequest) -> EvaluateRequest:
    if request.champion_uri is None:
        return request
    from slipway.models.bundle_store import fetch_bundle

    # Beside the output, which is on a disk with space for artifacts.
    target = request.output.with_name("champion-bundle") / request.champion_sha256[:12]
    return request.model_copy(
        update={"champion": fetch_bundle(request.champion_uri, request.champion_sha256, target), "champion_uri": None}
    )


def _champion(request: EvaluateRequest) -> tuple[Recommender | None, list[str]]:
    if request.champion is None:
        return None, []
    try:
        return load_model(request.champion, base=request.project_directory), []
    except BundleError as error:
        raise BundleError(
            f"the champion cannot be loaded: {error.what}",
            where=error.where,
            remedy="Move the alias `champion` to a sound version, or restore the bundle.",
        ) from error


def _warnings(task: Task, request: EvaluateRequest, judged: Judged) -> list[str]:
    warnings = []
    users, needed = len(task.users), request.split.minimum_users
    if users < needed:
        warnings.append(
            f"only {users:,} users have history and relevant held-out items, {needed:,} are wanted: the numbers say "
            "little; another split method may leave more"
        )
    if task.without_history:
        warnings.append(f"{task.without_history:,} users with held-out items have no training event; they are left out")
    if judged.fallbacks:
        warnings.append(f"{judged.fallbacks:,} users were answered by popularity, as the model does not know them")
    return warnings


def _gates_content(gates: list[GateResult]) -> dict[str, object]:
    return {"passed": all(gate.passed for gate in gates), "gates": [gate.model_dump(mode="json") for gate in gates]}


def _write_rankings(draft: ArtifactDraft, task: Task, judged: Judged) -> None:
    positions, ranks = np.nonzero(judged.lists >= 0)
    table = pa.table(
        {
            "user": pa.array(task.users, pa.string()).take(pa.array(positions)),
            "rank": pa.array(ranks + 1, pa.int32()),
            "item": pa.array(task.items.ids(judged.lists[positions, ranks]), pa.string()),
            "score": pa.array(judged.scores[positions, ranks], pa.float64()),
        }
    )
    _write(draft, "rankings.parquet", table)


def _write_users(draft: ArtifactDraft, task: Task, judged: Mapping[str, Judged], spec: EvaluationSpec) -> None:
    columns = {
        "user": pa.array(task.users, pa.string()),
        "training_events": pa.array(task.activity, pa.int64()),
        "relevant_items": pa.array(task.n_relevant, pa.int64()),
    }
    for name, result in judged.items():
        prefix = "" if name == "model" else f"{name}:"
        for index, metric in enumerate(columns_for(spec.k)):
            columns[f"{prefix}{metric}"] = pa.array(result.table[:, index], pa.float64(), from_pandas=True)
    _write(draft, "per_user.parquet", pa.table(columns))


def _write(draft: ArtifactDraft, name: str, table: pa.Table) -> None:
    pq.write_table(table, draft.path / name, compression="zstd")
    draft.rows[name] = table.num_rows
    draft.columns[name] = {field.name: str(field.type) for field in table.schema}
