"""`slipway promote`: a registered version goes to an environment by pull request."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import console, emit, note, table_of
from slipway.contracts.errors import PromotionError, UsageError

if TYPE_CHECKING:
    from slipway.contracts.project import Project
    from slipway.serving.promotion.audit import Version
    from slipway.serving.promotion.candidate import Outcome
    from slipway.serving.promotion.promote import Promoter


@click.command()
@click.argument("model", required=False, metavar="[MODEL]")
@file_option
@output_option
@click.option(
    "--to", "environment", metavar="ENVIRONMENT", help="Where it is to run; see `promotion:` in slipway.yaml."
)
@click.option("--version", "version", metavar="N", help="The registered version.")
@click.option("--alias", metavar="ALIAS", help="The version that an alias names, such as champion.")
@click.option("--dry-run", is_flag=True, help="Show the difference; push nothing.")
@click.option("--reason", metavar="TEXT", help="Why; goes into the audit file.")
@click.option("--force", is_flag=True, help="Against order and gates, for the record; needs --reason.")
@click.option("--approve", "approving", is_flag=True, help="Approve what somebody else proposed.")
@click.option("--revert", "reverting", is_flag=True, help="Bring Git back to the version that serves.")
@click.option(
    "--context", metavar="NAME", help="With --revert: ask the cluster of this kubeconfig context what serves."
)
@click.option("--check", "checking", is_flag=True, help="In CI: may the commits on top of --base be merged?")
@click.option("--base", default="origin/main", show_default=True, metavar="REF", help="With --check.")
def promote(
    model: str | None,
    file: Path,
    output: str,
    environment: str | None,
    version: str | None,
    alias: str | None,
    *,
    dry_run: bool,
    reason: str | None,
    force: bool,
    approving: bool,
    reverting: bool,
    context: str | None,
    checking: bool,
    base: str,
) -> None:
    """Propose a model version for an environment, in Git, by pull request.

    It changes manifests/models/MODEL/ENVIRONMENT/ only, on a branch of its own, and never touches your working tree.
    What was proposed before is found, not proposed again. The token for the pull request is read from
    SLIPWAY_GIT_TOKEN (or GH_TOKEN, GITLAB_TOKEN); without one, the branch is pushed and the page to open is printed.

    \b
    Examples:
      slipway promote films --to staging --dry-run
      slipway promote films --to staging --alias challenger
      slipway promote films --to production --version 3
      slipway promote films --to production --approve
      slipway promote films --to production --version 3 --force --reason 'hotfix, agreed with Ada'
      slipway promote films --to production --revert --context prod
      slipway promote --check --base origin/main
    """
    from slipway.cli.promotion import promoter_of
    from slipway.contracts.project import load_project
    from slipway.serving.promotion.approval import approve

    _refuse_odd(environment, version, alias, checking=checking, modes=(approving, reverting, checking))
    project = load_project(file)
    if checking:
        _check(project, base, output)
        return
    assert environment is not None
    name = (model or project.name).partition("@")[0].partition("/")[0] or project.name
    wanted = f"{name}/{version}" if version else f"{name}@{alias}" if alias else model
    with promoter_of(project, lambda text: note(f"[promote] {text}")) as promoter:
        if approving:
            outcome = approve(promoter, name, environment, version, reason=reason)
        elif reverting:
            named_by_hand = wanted if version or alias else None
            serving = _serving(project, promoter, name, environment, named_by_hand, context)
            outcome = promoter.revert(name, environment, serving, reason=reason, dry_run=dry_run)
        else:
            outcome = _propose(project, promoter, wanted, environment, reason=reason, force=force, dry_run=dry_run)
    _emit(outcome, output)


def _refuse_odd(
    environment: str | None, version: str | None, alias: str | None, *, checking: bool, modes: tuple[bool, ...]
) -> None:
    if sum(modes) > 1:
        raise UsageError("--approve, --revert and --check exclude each other")
    if version is not None and alias is not None:
        raise UsageError("--version and --alias exclude each other")
    if environment is None and not checking:
        raise UsageError("no environment is named", remedy="Add --to staging, or another one of slipway.yaml.")


def _propose(
    project: Project, promoter: Promoter, wanted: str | None, to: str, *, reason: str | None, force: bool, dry_run: bool
) -> Outcome:
    from slipway.cli.promotion import candidate_of, quality_in
    from slipway.cli.versions import find_version
    from slipway.serving.promotion.ground import find_environment

    environment = find_environment(project.promotion, to)
    named = find_version(project, wanted)
    note(f"[promote] {named.label} ({named.sha256[:12]}) to {to}")
    candidate = candidate_of(project, named, environment)
    lookup = quality_in(project, named.name)
    return promoter.promote(candidate, to, reason=reason, force=force, dry_run=dry_run, quality_of=lookup)


def _serving(
    project: Project, promoter: Promoter, model: str, to: str, wanted: str | None, context: str | None
) -> Version:
    """Returns the version that serves: as the user says, as the cluster says, or the registry's champion."""
    from slipway.cli.promotion import version_of
    from slipway.cli.versions import find_version
    from slipway.serving.promotion.ground import find_environment

    environment = find_environment(project.promotion, to)
    if wanted is None and context is not None:
        from slipway.serving.promotion.served import served_version
        from slipway.serving.rollout.operator.kube import ROLLOUTS, connect

        namespace = environment.namespace or environment.name
        rollout = connect(context=context).get(ROLLOUTS, namespace, model)
        if rollout is None:
            raise UsageError(f"there is no Rollout {model} in the namespace {namespace}", where=context)
        served = served_version(promoter.repository, promoter.spec, model, to, rollout)
        note(f"[promote] version {served.version} serves in {namespace}")
        return served
    named = find_version(project, wanted or f"{model}@champion")
    if wanted is None:
        note(f"[promote] the registry's champion, {named.label}, is taken for what serves; --context asks the cluster")
    return version_of(project, named, environment)


def _check(project: Project, base: str, output: str) -> None:
    from slipway.cli.promotion import repository_of
    from slipway.contracts.project import parse_project
    from slipway.serving.promotion.check import check_change

    repository = repository_of(project)
    spec = project.promotion
    inside = project.path.resolve().relative_to(repository.directory.resolve()) if not repository.bare else None
    if inside is None:
        raise UsageError("--check judges the checkout that holds the project", remedy="Run it in that repository.")
    rules = repository.read(repository.resolve(base), inside.as_posix())
    if rules is not None:
        spec = parse_project(rules, f"{inside} of {base}").promotion
    found = check_change(repository, spec, base, "HEAD")
    rows = [dataclasses.asdict(finding) | {"ok": not finding.problems} for finding in found]
    if not rows:
        note("no model changes its place here")
    emit(rows, output, table=lambda: table_of([_finding_row(row) for row in rows]) if rows else "")
    problems = [f"  {f.model} in {f.environment}: {problem}" for f in found for problem in f.problems]
    if problems:
        raise PromotionError("this may not be merged:\n" + "\n".join(problems) + "\n")


def _finding_row(row: dict[str, Any]) -> dict[str, Any]:
    said = "; ".join((*row["problems"], *row["notes"])) or None
    return {key: row[key] for key in ("model", "environment", "change", "version", "approvals", "ok")} | {"why": said}


def _emit(outcome: Outcome, output: str) -> None:
    if output != "table":
        emit(dataclasses.asdict(outcome), output)
        return
    for line in outcome.diff.splitlines():
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.echo(click.style(line, fg=colour) if colour else line)
    for text in outcome.notes:
        note(f"note: {text}")
    shown = {
        "status": _STATUS[outcome.status],
        "version": outcome.version + (f" (takes the place of {outcome.replaces})" if outcome.replaces else ""),
        "environment": outcome.environment,
        "branch": f"{outcome.branch} -> {outcome.base}" if outcome.branch else outcome.base,
        "pull request": f"{outcome.pull_request} ({outcome.state})" if outcome.pull_request else None,
        "open it here": outcome.open_page if outcome.status in ("pushed", "exists") else None,
        "approvals": f"{outcome.approvals} of {outcome.approvals_needed}" if outcome.approvals_needed else None,
        "forced": "; ".join(outcome.forced) or None,
    }
    rows = [{"promotion": key, "": value} for key, value in shown.items() if value is not None]
    console().print(table_of(rows))


_STATUS = {
    "opened": "proposed",
    "pushed": "pushed; no pull request was opened, as there is no token, or the host is not known",
    "exists": "there already, nothing new was made",
    "current": "Git names this version already",
    "dry-run": "dry run: nothing was pushed",
    "approved": "approved",
}
