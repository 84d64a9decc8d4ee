"""What `slipway promote` brings together: project, registry, repository and host."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.cli.versions import NamedVersion, bundle_of, versions_of
from slipway.contracts.bundle import BundleManifest, read_bundle
from slipway.contracts.errors import BundleError, UsageError
from slipway.contracts.evaluation import GateResult, protocol_line
from slipway.contracts.files import sha256_of
from slipway.serving.promotion.audit import Version
from slipway.serving.promotion.candidate import Candidate, Quality, QualityOf

if TYPE_CHECKING:
    from slipway.contracts.project import Project
    from slipway.contracts.project.promotion import EnvironmentSpec
    from slipway.serving.promotion.git import Repository
    from slipway.serving.promotion.promote import Promoter

CARD = "card.md"
EVALUATION = "evaluation"
URI_TAG = "slipway.bundle_uri"


def repository_of(project: Project) -> Repository:
    """Returns the repository that the project names, or the checkout that holds the project.

    Raises:
        UsageError: There is none, or it has no such remote.
    """
    from slipway.serving.promotion.git import cached_repository, checkout_of

    spec = project.promotion
    if spec.repository is None:
        return checkout_of(project.directory, spec.remote)
    local = project.directory / spec.repository
    address = str(local.resolve()) if "://" not in spec.repository and local.is_dir() else spec.repository
    return cached_repository(address, project.state / "promotion" / f"{sha256_of(address)[:12]}.git")


@contextlib.contextmanager
def promoter_of(project: Project, progress: Callable[[str], None]) -> Iterator[Promoter]:
    """Gives what proposes changes to the project's repository, with a token where the environment has one."""
    import dataclasses
    import os

    import yaml

    from slipway.serving.promotion.address import parse_address
    from slipway.serving.promotion.credentials import password_for_git
    from slipway.serving.promotion.git import address_of
    from slipway.serving.promotion.hosts import host_of, token_for
    from slipway.serving.promotion.promote import Promoter

    repository = repository_of(project)
    written = address_of(repository) or ""
    address = parse_address(written)
    kind, host = host_of(project.promotion, address)
    with password_for_git(kind, address, written, token_for(kind, address, os.environ)) as variables:
        yield Promoter(
            dataclasses.replace(repository, variables=variables),
            project.promotion,
            # As it is written, not as it was read: durations stay what the user wrote.
            policy=(yaml.safe_load(project.path.read_text(encoding="utf-8")) or {}).get("rollout"),
            kind=kind,
            address=address,
            host=host,
            progress=progress,
        )


def candidate_of(project: Project, named: NamedVersion, environment: EnvironmentSpec) -> Candidate:
    """Returns a registered version with its card, its gates and those of an environment, metrics and lineage.

    Raises:
        UsageError: The cluster's address of the bundle is not known, or gates are set and no evaluation was kept.
        BundleError: The bundle is not sound.
        ServiceError: The registry does not answer.
    """
    bundle = bundle_of(project, named)
    manifest = read_bundle(bundle, verify=False)
    card = bundle / CARD
    return Candidate(
        model=named.name,
        version=version_of(project, named, environment),
        quality=_quality(manifest),
        card=card.read_text(encoding="utf-8") if card.is_file() else "",
        gates=_gates(project, bundle, environment, named.label),
        lineage=_lineage(manifest, named),
    )


def version_of(project: Project, named: NamedVersion, environment: EnvironmentSpec) -> Version:
    """Returns a registered version as Git names it.

    Raises:
        UsageError: The cluster's address of the bundle is not known.
    """
    template = environment.bundles or project.promotion.bundles
    if template is not None:
        fields = {"name": named.name, "version": named.version}
        uri = template.format(**fields, sha256=named.sha256, sha12=named.sha256[:12])
    elif named.tags.get(URI_TAG):
        uri = named.tags[URI_TAG]
    else:
        raise UsageError(
            f"{named.label} lies on this machine only, and no cluster can load it from here",
            where=str(named.bundle_dir),
            remedy="Register on the cluster (kubernetes.bundles), or upload bundles and say where they are: "
            "promotion: {bundles: 's3://bucket/bundles/{name}/{sha12}'}",
        )
    return Version(version=named.version, digest=named.sha256, uri=uri)


def quality_in(project: Project, model: str) -> QualityOf:
    """Returns the function that looks a version up in the registry by its digest."""

    def quality_of(version: Version) -> Quality | None:
        known = next((v for v in versions_of(project, model) if v.sha256 == version.digest), None)
        if known is None:
            return None
        try:
            return _quality(read_bundle(bundle_of(project, known), verify=False))
        except BundleError:
            return None

    return quality_of


def _quality(manifest: BundleManifest) -> Quality:
    protocol = manifest.metrics.get("protocol")
    values = {name: entry.get("value") for name, entry in manifest.metrics.items() if name != "protocol"}
    return Quality(values, protocol_line(protocol) if protocol else "")


def _gates(project: Project, bundle: Path, environment: EnvironmentSpec, label: str) -> tuple[GateResult, ...]:
    from slipway.components.evaluate.gates import check_gates

    summary = _read(bundle / EVALUATION / "metrics.json")
    if summary is None:
        if environment.gates:
            raise UsageError(
                f"{environment.name} has gates, and no evaluation was kept with {label}",
                where=str(bundle),
                remedy="Register the model again: slipway run",
            )
        return ()
    kept = _read(bundle / EVALUATION / "gates.json") or {"gates": []}
    checked = [GateResult.model_validate(gate) for gate in kept["gates"]]
    own = check_gates(
        summary,
        environment.gates,
        minimum_users=project.split.minimum_users,
        has_champion="champion" in summary["against"],
    )
    known = {gate.gate for gate in checked}
    return (*checked, *(gate for gate in own if gate.gate not in known))


def _lineage(manifest: BundleManifest, named: NamedVersion) -> dict[str, str]:
    lineage = {name: _text(value) for name, value in manifest.lineage.items() if value is not None}
    for name in ("git_commit", "run_id", "evaluation", "features_fingerprint"):
        if named.tags.get(f"slipway.{name}"):
            lineage[name] = named.tags[f"slipway.{name}"]
    lineage["bundle sha256"] = named.sha256
    return {name.replace("_", " "): value for name, value in lineage.items()}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content
