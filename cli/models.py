"""`slipway models`: what the registry holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import console, emit, note, table_of
from slipway.cli.versions import NamedVersion, find_version, versions_of
from slipway.contracts.bundle import BundleManifest, read_bundle
from slipway.contracts.errors import BundleError, UsageError
from slipway.contracts.project import load_project

HEADLINES = ("ndcg", "hr", "recall", "auc")


@click.group()
def models() -> None:
    """Show what the model registry holds."""


@models.command("list", epilog="\b\nExamples:\n  slipway models list\n  slipway models list -o json | jq '.[].version'")
@file_option
@output_option
@click.option("--name", help="The registered model (default: the project's).")
def list_models(file: Path, output: str, name: str | None) -> None:
    """List the versions of a model, oldest first."""
    project = load_project(file)
    rows = [_row(version) for version in versions_of(project, name or project.name)]
    if not rows:
        note("no version is registered; register one with: slipway run")
    emit(rows, output, table=lambda: table_of(rows))


@models.command(epilog="\b\nExamples:\n  slipway models show films@challenger\n  slipway models show films/3 -o yaml")
@file_option
@output_option
@click.argument("model", required=False, metavar="[NAME@ALIAS|NAME/VERSION]")
def show(file: Path, output: str, model: str | None) -> None:
    """Show a version: metrics with their protocol, gates, parameters, lineage."""
    version = find_version(load_project(file), model)
    details = _details(version)
    if output != "table":
        emit(details, output)
        return
    screen = console()
    manifest: Mapping[str, Any] = details["bundle"]
    facts = {
        "version": version.label,
        "aliases": ", ".join(version.aliases) or None,
        "registered": details["created"],
        "family": manifest["family"],
        "trained on": f"{manifest['counts']['interactions']:,} interactions of {manifest['counts']['users']:,} users "
        f"and {manifest['counts']['items']:,} items",
        "feature views": ", ".join(view["name"] for view in manifest["views"]) or None,
        **{f"parameter {name}": value for name, value in manifest["parameters"].items()},
        **{f"lineage {name}": value for name, value in manifest["lineage"].items()},
        "bundle": str(version.bundle_dir),
        "sha256": version.sha256,
    }
    screen.print(table_of([{"model": name, "": value} for name, value in facts.items()]))
    metrics = [
        {"metric": name, "value": entry.get("value"), "low": entry.get("low"), "high": entry.get("high")}
        for name, entry in manifest["metrics"].items()
        if name != "protocol"
    ]
    if metrics:
        screen.print(table_of(metrics, title=_protocol(manifest["metrics"])))
    if details["gates"]:
        screen.print(table_of(details["gates"], ["gate", "value", "passed", "why"], title="Gates"))


@models.command(
    epilog="\b\nExamples:\n  slipway models diff champion challenger\n  slipway models diff films/1 films/2"
)
@file_option
@output_option
@click.argument("before")
@click.argument("after")
def diff(file: Path, output: str, before: str, after: str) -> None:
    """Compare two versions: metrics, parameters, features, data."""
    project = load_project(file)
    pair = [find_version(project, text) for text in (before, after)]
    flat = [_flat(_manifest(version)) for version in pair]
    rows = []
    for field in dict.fromkeys([*flat[0], *flat[1]]):
        old, new = flat[0].get(field), flat[1].get(field)
        if old == new and not field.startswith("metric "):
            continue
        numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (old, new))
        rows.append({"field": field, pair[0].label: old, pair[1].label: new, "change": new - old if numeric else None})  # type: ignore[operator]
    protocols = [_protocol(_manifest(version).metrics) for version in pair]
    if protocols[0] != protocols[1]:
        note("warning: the metrics were measured by different protocols and do not compare")
    emit(rows, output, table=lambda: table_of(rows))


@models.command(epilog="\b\nExample:\n  slipway models card films@champion > card.md")
@file_option
@click.argument("model", required=False, metavar="[NAME@ALIAS|NAME/VERSION]")
def card(file: Path, model: str | None) -> None:
    """Print the model card of a version, as Markdown."""
    version = find_version(load_project(file), model)
    path = version.bundle_dir / "card.md"
    if not path.is_file():
        raise UsageError(
            f"{version.label} has no card", where=str(path), remedy="Register the model again: slipway run"
        )
    click.echo(path.read_text(), nl=False)


def _row(version: NamedVersion) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": version.name,
        "version": version.version,
        "aliases": ", ".join(version.aliases) or None,
        "registered": _created(version),
    }
    try:
        manifest = read_bundle(version.bundle_dir, verify=False)
    except BundleError as error:
        return row | {"family": None, "sha256": version.sha256[:12], "problem": error.what}
    for name, entry in manifest.metrics.items():
        if name.partition("@")[0] in HEADLINES:
            row[name] = entry.get("value")
    return row | {"family": manifest.family, "sha256": version.sha256[:12]}


def _details(version: NamedVersion) -> dict[str, Any]:
    gates = version.bundle_dir / "evaluation" / "gates.json"
    return {
        "name": version.name,
        "version": version.version,
        "aliases": version.aliases,
        "created": _created(version),
        "bundle_dir": str(version.bundle_dir),
        "sha256": version.sha256,
        "bundle": _manifest(version).model_dump(mode="json"),
        "gates": json.loads(gates.read_text())["gates"] if gates.is_file() else [],
    }


def _manifest(version: NamedVersion) -> BundleManifest:
    return read_bundle(version.bundle_dir, verify=False)


def _created(version: NamedVersion) -> str | None:
    file = version.bundle_dir / "model.json"
    if not file.is_file():
        return None
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(sep=" ", timespec="minutes")


def _protocol(metrics: Mapping[str, Any]) -> str:
    protocol = metrics.get("protocol")
    if not protocol:
        return "Metrics"
    from slipway.contracts.evaluation import protocol_line

    return f"Metrics: {protocol_line(protocol)}"


def _flat(manifest: BundleManifest) -> dict[str, Any]:
    flat: dict[str, Any] = {"family": manifest.family}
    for name, entry in manifest.metrics.items():
        if name != "protocol":
            flat[f"metric {name}"] = entry.get("value")
    for name, value in manifest.parameters.items():
        flat[f"parameter {name}"] = value
    for name, value in manifest.counts.model_dump().items():
        flat[f"trained on {name}"] = value
    flat["feature views"] = ", ".join(f"{view.name} {view.schema_hash}" for view in manifest.views) or None
    for name, value in manifest.lineage.items():
        flat[f"lineage {name}"] = json.dumps(value) if isinstance(value, dict) else value
    return flat
