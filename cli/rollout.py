"""`slipway rollout`: bring a version to all traffic, look at it, stop it, and see why it decided what it did."""

from __future__ import annotations

import dataclasses
import getpass
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import emit, note, table_of
from slipway.contracts.errors import RolloutError, ServiceError

if TYPE_CHECKING:
    from rich.table import Table

    from slipway.serving.rollout.store import Record, RolloutFolder, RolloutStore

_ID = click.argument("rollout_id", required=False, metavar="[ROLLOUT]")


@click.group()
def rollout() -> None:
    """Bring a model version to all traffic, step by step, and back when it must be.

    \b
    Examples:
      slipway rollout start                  the newest challenger, by the policy of slipway.yaml
      slipway rollout start films/3 --plan   only say what traffic and time it would need
      slipway rollout watch                  follow it; Ctrl-C leaves it running
      slipway rollout explain                why it is where it is
      slipway rollout abort                  take it back now
    """


@rollout.command()
@click.argument("versions", nargs=-1, metavar="[MODEL/VERSION]...")
@file_option
@output_option
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field of the project file.")
@click.option("--plan", "plan_only", is_flag=True, help="Print the plan and start nothing.")
@click.option("--wait", is_flag=True, help="Follow it to its end; exit code 3 if it went back.")
@click.option("--retry", is_flag=True, help="Try a version again that went back.")
@click.option("--force", is_flag=True, help="Start although the plan says that the traffic cannot decide it in time.")
def start(
    versions: tuple[str, ...],
    file: Path,
    output: str,
    overrides: tuple[str, ...],
    *,
    plan_only: bool,
    wait: bool,
    retry: bool,
    force: bool,
) -> None:
    """Roll a registered version out; by default the one with the alias `challenger`.

    Several versions get the step's weight each; harmful ones are dropped, and the best one goes on.

    \b
    Examples:
      slipway rollout start
      slipway rollout start films/3 --wait
      slipway rollout start films@challenger --set rollout.alpha=0.01 --plan
      slipway rollout start films/3 films/4 --set rollout.preset=abTest
    """
    from slipway.contracts.project import load_project
    from slipway.serving.rollout.start import create_rollout, plan_rollout, prepare

    prepared = prepare(load_project(file, overrides), versions, retry=retry)
    if prepared.spec.stable is None:
        note("Nothing serves yet: after a smoke test, this first version gets all traffic.")
    elif not (force and not plan_only):
        plan = plan_rollout(prepared)
        for line in plan.lines():
            note(line)
        if plan_only:
            emit(dataclasses.asdict(plan), output, table="")
    if plan_only:
        return
    folder = create_rollout(prepared)
    note(f"rollout {folder.id} has started; follow it with: slipway rollout watch -f {file}")
    if wait:
        _follow(folder, output)
    else:
        emit({"rollout": folder.id, "candidates": [target.arm for target in prepared.spec.candidates]}, output)


@rollout.command()
@_ID
@file_option
@output_option
@click.option("--all", "all_rollouts", is_flag=True, help="Every rollout, a line each.")
def status(rollout_id: str | None, file: Path, output: str, *, all_rollouts: bool) -> None:
    """Show phase, step, weights and the verdict of every guardrail.

    \b
    Example:
      slipway rollout status
      slipway rollout status --all -o json
    """
    store = _store(file)
    if all_rollouts:
        emit([_summary(folder) for folder in store.all()], output)
        return
    folder = store.find(rollout_id)
    record = folder.read()
    emit(_status(folder, record), output, table=lambda: _status_table(folder, record))


@rollout.command()
@_ID
@file_option
@output_option
def watch(rollout_id: str | None, file: Path, output: str) -> None:
    """Follow a rollout to its end; exit code 3 if it went back.

    \b
    Example:
      slipway rollout watch
    """
    _follow(_store(file).find(rollout_id), output)


def _command(name: str, kind: str, text: str) -> None:
    @rollout.command(name=name, help=f"{text}\n\n\b\nExample:\n  slipway rollout {name}")
    @_ID
    @file_option
    def give(rollout_id: str | None, file: Path) -> None:
        folder = _store(file).find(rollout_id)
        record = folder.read()
        if record is not None and record.state.terminal:
            remedy = "Start it anew with: slipway rollout retry" if kind != "retry" else None
            raise RolloutError(f"this rollout has ended ({record.state.phase})", where=folder.id, remedy=remedy)
        folder.give(kind, _user())  # type: ignore[arg-type]
        note(f"{name} was given to {folder.id}")


_command("pause", "pause", "Hold the weights; a hard fault still takes it back.")
_command("resume", "resume", "Go on after a pause, or open the gate that it waits at.")
_command("approve", "approve", "Open the gate that it waits at.")
_command("promote", "promote", "Go to all traffic now, whatever the verdicts still leave open.")
_command("skip", "skip", "Go to the next step without waiting for this one.")
_command("abort", "abort", "Take the candidate back now.")


@rollout.command()
@_ID
@file_option
@output_option
@click.option("--wait", is_flag=True, help="Follow it to its end; exit code 3 if it went back.")
def retry(rollout_id: str | None, file: Path, output: str, *, wait: bool) -> None:
    """Try a version again that went back, as a new rollout.

    \b
    Example:
      slipway rollout retry --wait
    """
    from slipway.contracts.project import load_project
    from slipway.serving.rollout.start import create_rollout, prepare

    old = _store(file).find(rollout_id).spec
    versions = [f"{old.model}/{candidate.version}" for candidate in old.candidates]
    prepared = prepare(load_project(file), versions, retry=True)
    folder = create_rollout(prepared)
    note(f"rollout {folder.id} has started")
    if wait:
        _follow(folder, output)
    else:
        emit({"rollout": folder.id, "candidates": [target.arm for target in prepared.spec.candidates]}, output)


@rollout.command()
@_ID
@file_option
@output_option
@click.option("-F", "--follow", is_flag=True, help="Go on with decisions as they come, until the rollout ends.")
def history(rollout_id: str | None, file: Path, output: str, *, follow: bool) -> None:
    """List every decision, oldest first: each with readings, bounds, samples, rule and queries in JSON and YAML.

    \b
    Example:
      slipway rollout history
      slipway rollout history -o json
      slipway rollout history --follow -o json    one decision a line; the last line says how it ended
    """
    from slipway.cli.explanation import decision_line, history_rows
    from slipway.serving.local.observed import read_observed
    from slipway.serving.rollout import event_stream

    folder = _store(file).find(rollout_id)
    if follow:
        project = folder.path.parents[3]
        for message in event_stream.follow(folder, lambda: read_observed(project).is_fresh()):
            click.echo(decision_line(message, output))
        return
    decisions = [decision.to_dict() for decision in event_stream.HistoryReader(folder).new()]
    emit(decisions, output, table=lambda: table_of(history_rows(decisions), ["at", "kind", "message"]))


@rollout.command()
@_ID
@file_option
@output_option
@click.option("--all", "all_looks", is_flag=True, help="Every look, not only those that changed something.")
def explain(rollout_id: str | None, file: Path, output: str, *, all_looks: bool) -> None:
    """Say for each decision what was read, what bound it gave, and the rule that followed.

    \b
    Example:
      slipway rollout explain
      slipway rollout explain --all
      slipway rollout explain -o json
    """
    from slipway.cli.explanation import explanation_text
    from slipway.serving.rollout.event_stream import explanation_of

    document = explanation_of(_store(file).find(rollout_id))
    if output == "table":
        # Not wrapped: a query is there to be pasted into Prometheus.
        click.echo(explanation_text(document, all_looks=all_looks))
    else:
        emit(document, output)


def _store(file: Path) -> RolloutStore:
    from slipway.contracts.project import load_project
    from slipway.serving.local.layout import PlaneLayout
    from slipway.serving.rollout.store import RolloutStore

    return RolloutStore(PlaneLayout(load_project(file).directory).rollouts)


def _follow(folder: RolloutFolder, output: str) -> None:
    from slipway.serving.local.observed import read_observed

    shown = 0
    project = folder.path.parents[3]
    unseen_since = time.monotonic()
    while True:
        lines = folder.history()
        for line in lines[shown:]:
            if line["type"] == "event":
                note(f"{_clock(line['at'])}  {line['message']}")
        shown = len(lines)
        record = folder.read()
        if record is not None and record.state.terminal:
            break
        if read_observed(project).is_fresh():
            unseen_since = time.monotonic()
        elif time.monotonic() - unseen_since > 30:
            raise ServiceError(
                "nothing runs the rollout: the serving plane is down",
                where=folder.id,
                remedy="Start it with `slipway up`; the rollout goes on where it was.",
            )
        time.sleep(0.2)
    emit(_status(folder, record), output, table=lambda: _status_table(folder, record))
    if record.state.phase not in ("Promoted", "Completed"):
        raise RolloutError(
            record.state.reason or f"the rollout ended as {record.state.phase}",
            where=folder.id,
            remedy=f"See why with: slipway rollout explain {folder.id}",
        )


def _summary(folder: RolloutFolder) -> dict[str, Any]:
    record = folder.read()
    spec = folder.spec
    state = record.state if record else None
    return {
        "rollout": folder.id,
        "candidate": state.candidate.arm if state else spec.candidates[0].arm,
        "candidates": [candidate.arm for candidate in spec.candidates],
        "stable": spec.stable.arm if spec.stable else None,
        "phase": str(state.phase) if state else "Pending",
        "step": f"{state.step + 1}/{len(spec.policy.steps)}" if state else None,
        "weight": state.weights.get(state.candidate.arm, 0) if state else 0,
        "weights": dict(state.weights) if state else {},
        "mirrors": dict(state.mirrors) if state else {},
        "dropped": dict(state.dropped) if state else {},
        "reason": state.reason if state else "",
    }


def _status(folder: RolloutFolder, record: Record | None) -> dict[str, Any]:
    from slipway.serving.rollout.core.serialization import to_plain

    verdicts = to_plain(record.state.verdicts) if record else []
    return {**_summary(folder), "alarm": record.state.alarm if record else "", "verdicts": verdicts}


def _status_table(folder: RolloutFolder, record: Record | None) -> Table:
    summary = _summary(folder)
    title = (
        f"{summary['rollout']}: {summary['candidate']} over {summary['stable'] or 'nothing'}  "
        f"phase {summary['phase']}  step {summary['step']}  weight {summary['weight']} %"
    )
    if summary["reason"]:
        title += f"\n{summary['reason']}"
    if record and record.state.alarm:
        title += f"\nALARM {record.state.alarm}"
    rows = [
        {
            "guardrail": verdict.guardrail + (" (dry run)" if verdict.dry_run else ""),
            "verdict": str(verdict.outcome),
            "requires": verdict.requirement,
            "candidate": _seen(verdict.measure, verdict.candidate_rate),
            "stable": _seen(verdict.measure, verdict.stable_rate),
            "measure": verdict.measure,
            "bounds": f"{_number(verdict.lower)} .. {_number(verdict.upper)}",
            "margin": _number(verdict.margin),
            "samples": f"{verdict.samples:,} / {verdict.stable_samples:,}",
        }
        for verdict in (record.state.verdicts if record else ())
    ]
    columns = ["guardrail", "verdict", "requires", "candidate", "stable", "measure", "bounds", "margin", "samples"]
    return table_of(rows, columns, title=title)


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))


def _seen(measure: str, value: float | None) -> str:
    """Returns a share of events, or a mean in the unit of its values."""
    if value is None:
        return "-"
    return f"{value:.4g}" if measure == "mean_difference" else f"{100 * value:.2f} %"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
