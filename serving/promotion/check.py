"""What a pull request changes under `manifests/models`, and whether it may be merged: the check for a user's CI.

It reads two commits of one repository and asks nobody else. Rules come from the base, so that a pull request cannot
loosen what it is judged by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slipway.contracts.errors import PromotionError
from slipway.contracts.project.promotion import EnvironmentSpec, PromotionSpec
from slipway.serving.promotion.audit import AUDIT, Audit, AuditLine
from slipway.serving.promotion.git import Repository
from slipway.serving.promotion.ground import folder_of
from slipway.serving.promotion.manifests import ROLLOUT, wanted_version


@dataclass(frozen=True)
class Finding:
    """One model in one environment that a pull request touches; `problems` forbid the merge, `notes` do not."""

    model: str
    environment: str
    change: Literal["promote", "revert", "edit", "remove"]
    version: str | None
    approvals: int
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_change(repository: Repository, spec: PromotionSpec, base: str, head: str) -> list[Finding]:
    """Judges the difference from where `head` left `base` to `head`.

    Args:
        repository: With both commits.
        spec: As the base has it.
        base: Commit or reference that the pull request goes to.
        head: Commit or reference of the pull request.

    Raises:
        UsageError: A reference names no commit.
    """
    top, tip = repository.resolve(base), repository.resolve(head)
    left = repository.merge_base(top, tip)
    models = {*repository.folders(left, spec.directory), *repository.folders(tip, spec.directory)}
    found = []
    for model in sorted(models):
        path = f"{spec.directory}/{model}"
        for name in sorted({*repository.folders(left, path), *repository.folders(tip, path)}):
            if repository.diff(left, tip, f"{path}/{name}"):
                found.append(_judge(repository, spec, model, name, left, tip))
    return found


def _judge(repository: Repository, spec: PromotionSpec, model: str, name: str, base: str, head: str) -> Finding:
    folder = folder_of(spec, model, name)
    environment = spec.environment(name)
    if environment is None:
        return Finding(model, name, "edit", None, 0, (f"there is no environment {name!r} in slipway.yaml",))
    rollout = repository.read(head, f"{folder}/{ROLLOUT}")
    if rollout is None:
        return Finding(model, name, "remove", None, 0, notes=("the model leaves this environment",))
    try:
        wanted = wanted_version(rollout, f"{folder}/{ROLLOUT}")
        before, after = (_audit(repository, commit, folder) for commit in (base, head))
    except PromotionError as error:
        return Finding(model, name, "edit", None, 0, (f"{error.where}: {error.what}",))
    if not after.starts_with(before):
        problem = "lines of the audit file were changed or taken out"
        return Finding(model, name, "edit", wanted.version, 0, (problem,))
    new = [line for line in after.lines[len(before.lines) :] if line.action != "approve"]
    present = repository.read(base, f"{folder}/{ROLLOUT}")
    same = present is not None and wanted_version(present, f"{folder}/{ROLLOUT} of the base") == wanted
    if same and not new:
        return Finding(model, name, "edit", wanted.version, 0, notes=("the version stays; other fields change",))
    if len(new) != 1 or new[0].wanted != wanted or (new[0].model, new[0].environment) != (model, name):
        problem = "the version was changed by hand, or the audit file tells of another one: use `slipway promote`"
        return Finding(model, name, "promote", wanted.version, 0, (problem,))
    return _judge_event(repository, spec, environment, new[0], after, base)


def _judge_event(
    repository: Repository, spec: PromotionSpec, environment: EnvironmentSpec, line: AuditLine, audit: Audit, base: str
) -> Finding:
    approvals = len(audit.approvals(line.proposal))
    notes = [f"forced by {line.by} ({line.reason}): {rule}" for rule in line.forced]
    if line.action != "promote":
        return Finding(line.model, environment.name, "revert", line.wanted.version, approvals)
    problems = []
    before = spec.before(environment.name)
    if before is not None and not line.forced:
        branch = before.branch or spec.branch
        own = environment.branch or spec.branch
        commit = base if branch == own else repository.resolve(f"{repository.remote}/{branch}")
        if _audit(repository, commit, folder_of(spec, line.model, before.name)).promoted(line.wanted.digest) is None:
            problems.append(f"{before.name} has not promoted version {line.wanted.version}")
    if approvals < environment.approvals:
        problems.append(
            f"{environment.approvals} approvals are needed and {approvals} given: "
            f"slipway promote {line.model} --to {environment.name} --version {line.wanted.version} --approve"
        )
    return Finding(
        line.model, environment.name, "promote", line.wanted.version, approvals, tuple(problems), tuple(notes)
    )


def _audit(repository: Repository, commit: str, folder: str) -> Audit:
    return Audit(repository.read(commit, f"{folder}/{AUDIT}") or "", f"{folder}/{AUDIT}")
