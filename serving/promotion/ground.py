"""What Git says of a model in an environment at this moment: its files, its audit, and the proposals that are open."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from slipway.contracts.errors import PromotionError, UsageError
from slipway.contracts.project.promotion import EnvironmentSpec, PromotionSpec
from slipway.contracts.rollout.resource import NAME_PATTERN
from slipway.serving.promotion.audit import AUDIT, Audit, AuditLine, Version
from slipway.serving.promotion.manifests import KUSTOMIZATION, ROLLOUT, wanted_version
from slipway.serving.promotion.repository import BranchMovedError, PromotionRepository, Remote

ATTEMPTS = 5
"""How often the remote is looked at again when somebody else changes it meanwhile."""


@dataclass(frozen=True)
class Proposal:
    """A branch that changes a model in an environment and is not merged. `stale`: the base has changed since."""

    branch: str
    commit: str
    line: AuditLine
    audit: Audit
    stale: bool


@dataclass(frozen=True)
class Ground:
    """A model in an environment on the branch that pull requests go to.

    `present` is the version that Git names there, None before the first promotion.
    """

    base: str
    commit: str
    folder: str
    files: Mapping[str, str | None]
    audit: Audit
    present: Version | None
    proposals: tuple[Proposal, ...]
    remote: Remote


def folder_of(spec: PromotionSpec, model: str, environment: str) -> str:
    """Returns the one folder that a promotion may change."""
    return f"{spec.directory}/{model}/{environment}"


def find_environment(spec: PromotionSpec, name: str) -> EnvironmentSpec:
    """Returns an environment by name.

    Raises:
        UsageError: The project has none, or no such one.
    """
    environment = spec.environment(name)
    if environment is not None:
        return environment
    names = ", ".join(environment.name for environment in spec.environments)
    raise UsageError(
        f"there is no environment {name!r}",
        where="promotion.environments",
        remedy=f"Known are: {names}."
        if names
        else "Write in slipway.yaml: promotion: {environments: [{name: staging}, {name: production}]}",
    )


def read_ground(
    repository: PromotionRepository, spec: PromotionSpec, model: str, environment: EnvironmentSpec
) -> Ground:
    """Asks the remote where a model stands in an environment.

    Raises:
        UsageError: The model's name makes no folder, or the remote has no such branch.
        PromotionError: Files of the folder are not what Slipway writes.
        ServiceError: The remote does not answer.
    """
    if not re.fullmatch(NAME_PATTERN, model):
        raise UsageError(f"{model!r} is no name of a model that can be promoted: lower-case letters, digits, hyphens")
    prefix = f"slipway/{model}/{environment.name}/"
    for attempt in range(ATTEMPTS):
        base_name = environment.branch or spec.branch
        remote = repository.look(*([base_name] if base_name else []), f"{prefix}*")
        base = base_name or remote.main
        if base is None or base not in remote.branches:
            raise UsageError(
                f"the repository has no branch {base!r}" if base else "the repository is empty",
                where=repository.shown_remote,
                remedy="Push a first commit to it, or name its branch in slipway.yaml: promotion: {branch: main}",
            )
        try:
            repository.fetch(remote, [base])
            return _read(repository, spec, model, environment, remote, base, prefix)
        except BranchMovedError:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _read(
    repository: PromotionRepository,
    spec: PromotionSpec,
    model: str,
    environment: EnvironmentSpec,
    remote: Remote,
    base: str,
    prefix: str,
) -> Ground:
    commit = remote.branches[base]
    folder = folder_of(spec, model, environment.name)
    read = repository.read_all(commit, [f"{folder}/{name}" for name in (ROLLOUT, KUSTOMIZATION, AUDIT)])
    files = {name: read[f"{folder}/{name}"] for name in (ROLLOUT, KUSTOMIZATION)}
    audit = Audit(read[f"{folder}/{AUDIT}"] or "", f"{folder}/{AUDIT}")
    open_branches = [name for name in remote.branches if name.startswith(prefix) and not audit.has(name)]
    repository.fetch(remote, open_branches)
    proposals = []
    for branch in open_branches:
        where = f"{folder}/{AUDIT} on {branch}"
        try:
            theirs = Audit(repository.read(remote.branches[branch], f"{folder}/{AUDIT}") or "", where)
        except PromotionError:
            continue  # somebody's own branch under our prefix; its name is taken all the same
        line = theirs.author(branch)
        if line is not None:
            stale = not theirs.starts_with(audit)
            proposals.append(Proposal(branch, remote.branches[branch], line, theirs, stale))
    rollout = files[ROLLOUT]
    present = wanted_version(rollout, f"{folder}/{ROLLOUT}") if rollout is not None else None
    return Ground(base, commit, folder, files, audit, present, tuple(proposals), remote)
