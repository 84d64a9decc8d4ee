"""`slipway rollout`: bring a version to all traffic, look at it, stop it, and see why it decided what it did."""

from __future__ import annotations

import dataclasses
import getpass
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import emit, note, table_of
from slipway.cli.rollout_places import Place, Rollout, place_of, place_options
from slipway.cli.rollout_status import status_of, status_table, summary_of
from slipway.contracts.errors import RolloutError, ServiceError, UsageError

if TYPE_CHECKING:
    pass

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
      slipway rollout status films --context prod -n models     the same of a Rollout on a cluster
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
@place_options
@click.option("--uri", help="With --context: where the bundle is, such as s3://bundles/films/3.")
@click.option("--digest", default="", help="With --context: sha256 of the bundle.")
def start(
    versions: tuple[str, ...],
    file: Path,
    output: str,
    overrides: tuple[str, ...],
    cluster_context: str | None,
    cluster_namespace: str | None,
    uri: str | None,
    digest: str,
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
      slipway rollout start films/3 --context prod -n models --uri s3://bundles/films/3
    """
    place = place_of(file, cluster_context, cluster_namespace)
    if place.remote:
        _start_on_cluster(place, versions, uri, digest, output, wait=wait)
        return
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
        _follow(place, folder, output)
    else:
        emit({"rollout": folder.id, "candidates": [target.arm for target in prepared.spec.candidates]}, output)


@rollout.command()
@_ID
@file_option
@output_option
@place_options
@click.option("--all", "all_rollouts", is_flag=True, help="Every rollout, a line each.")
def status(
    rollout_id: str | None,
    file: Path,
    output: str,
    cluster_context: str | None,
    cluster_namespace: str | None,
    *,
    all_rollouts: bool,
) -> None:
    """Show phase, step, weights and the verdict of every guardrail.

    \b
    Example:
      slipway rollout status
      slipway rollout status --all -o json
    """
    place = place_of(file, cluster_context, cluster_namespace)
    if all_rollouts:
        emit([summary_of(folder) for folder in place.all()], output)
        return
    folder = place.find(rollout_id)
    record = folder.read()
    emit(status_of(folder, record), output, table=lambda: status_table(folder, record))


@rollout.command()
@_ID
@file_option
@output_option
@place_options
def watch(
    rollout_id: str | None, file: Path, output: str, cluster_context: str | None, cluster_namespace: str | None
) -> None:
    """Follow a rollout to its end; exit code 3 if it went back.

    \b
    Example:
      slipway rollout watch
    """
    place = place_of(file, cluster_context, cluster_namespace)
    _follow(place, place.find(rollout_id), output)


def _command(name: str, kind: str, text: str) -> None:
    @rollout.command(name=name, help=f"{text}\n\n\b\nExample:\n  slipway rollout {name}")
    @_ID
    @file_option
    @place_options
    def give(rollout_id: str | None, file: Path, cluster_context: str | None, cluster_namespace: str | None) -> None:
        folder = place_of(file, cluster_context, cluster_namespace).find(rollout_id)
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
@place_options
@click.option("--wait", is_flag=True, help="Follow it to its end; exit code 3 if it went back.")
def retry(
    rollout_id: str | None,
    file: Path,
    output: str,
    cluster_context: str | None,
    cluster_namespace: str | None,
    *,
    wait: bool,
) -> None:
    """Try a version again that went back, as a new rollout.

    \b
    Example:
      slipway rollout retry --wait
    """
    from slipway.contracts.project import load_project
    from slipway.serving.rollout.start import create_rollout, prepare

    place = place_of(file, cluster_context, cluster_namespace)
    if place.remote:
        _retry_on_cluster(place, rollout_id, output, wait=wait)
        return
    old = place.find(rollout_id).spec
    versions = [f"{old.model}/{candidate.version}" for candidate in old.candidates]
    prepared = prepare(load_project(file), versions, retry=True)
    folder = create_rollout(prepared)
    note(f"rollout {folder.id} has started")
    if wait:
        _follow(place, folder, output)
    else:
        emit({"rollout": folder.id, "candidates": [target.arm for target in prepared.spec.candidates]}, output)


@rollout.command()
@_ID
@file_option
@output_option
@place_options
@click.option("-F", "--follow", is_flag=True, help="Go on with decisions as they come, until the rollout ends.")
def history(
    rollout_id: str | None,
    file: Path,
    output: str,
    cluster_context: str | None,
    cluster_namespace: str | None,
    *,
    follow: bool,
) -> None:
    """List every decision, oldest first: each with readings, bounds, samples, rule and queries in JSON and YAML.

    \b
    Example:
      slipway rollout history
      slipway rollout history -o json
      slipway rollout history --follow -o json    one decision a line; the last line says how it ended
    """
    from slipway.cli.explanation import decision_line, history_rows
    from slipway.serving.rollout import event_stream

    place = place_of(file, cluster_context, cluster_namespace)
    told = place.told(rollout_id)
    if follow:
        for message in event_stream.follow(told, lambda: place.served(told), silence=place.silence):
            click.echo(decision_line(message, output))
        return
    decisions = [decision.to_dict() for decision in event_stream.HistoryReader(told).new()]
    emit(decisions, output, table=lambda: table_of(history_rows(decisions), ["at", "kind", "message"]))


@rollout.command()
@_ID
@file_option
@output_option
@place_options
@click.option("--all", "all_looks", is_flag=True, help="Every look, not only those that changed something.")
def explain(
    rollout_id: str | None,
    file: Path,
    output: str,
    cluster_context: str | None,
    cluster_namespace: str | None,
    *,
    all_looks: bool,
) -> None:
    """Say for each decision what was read, what bound it gave, and the rule that followed.

    \b
    Example:
      slipway rollout explain
      slipway rollout explain --all
      slipway rollout explain -o json
    """
    from slipway.cli.explanation import explanation_text
    from slipway.serving.rollout.event_stream import explanation_of

    document = explanation_of(place_of(file, cluster_context, cluster_namespace).told(rollout_id))
    if output == "table":
        # Not wrapped: a query is there to be pasted into Prometheus.
        click.echo(explanation_text(document, all_looks=all_looks))
    else:
        emit(document, output)


def _start_on_cluster(
    place: Place, versions: tuple[str, ...], uri: str | None, digest: str, output: str, *, wait: bool
) -> None:
    """Names another version in a Rollout that is there."""
    if len(versions) != 1 or uri is None:
        raise UsageError(
            "on a cluster, name one MODEL/VERSION and where its bundle is",
            where="slipway rollout start --context",
            remedy="For example: slipway rollout start films/3 --context prod --uri s3://bundles/films/3. Where Git "
            "holds the Rollout: slipway promote",
        )
    name, _, version = versions[0].replace("@", "/").partition("/")
    remote = place.remote_rollout(name)
    run = remote.run
    remote.want(version, uri, digest)
    note(f"version {version} is wanted of {remote.id}; Git, where it holds this Rollout, says otherwise until told")
    if wait:
        _wait_for_run(place, remote.id, run + 1)
        _follow(place, remote, output)
    else:
        emit({"rollout": remote.id, "version": version}, output)


def _retry_on_cluster(place: Place, name: str | None, output: str, *, wait: bool) -> None:
    remote = place.remote_rollout(name)
    run = remote.run
    record = remote.read()
    if record is None or record.state.phase not in ("RolledBack", "Failed"):
        phase = "not begun" if record is None else f"in phase {record.state.phase}"
        raise RolloutError(f"there is nothing to retry: it is {phase}", where=remote.id)
    remote.give("retry", _user())
    note(f"retry was given to {remote.id}")
    if wait:
        _wait_for_run(place, remote.id, run + 1)
        _follow(place, remote, output)
    else:
        emit({"rollout": remote.id}, output)


def _wait_for_run(place: Place, name: str, run: int, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while place.remote_rollout(name).run < run:
        if time.monotonic() > deadline:
            record = place.remote_rollout(name).read()
            why = "" if record is None else f": {record.state.reason}"
            raise ServiceError(f"it has not begun{why}", where=name, remedy="See: kubectl describe rollout")
        time.sleep(0.5)


def _follow(place: Place, folder: Rollout, output: str) -> None:
    shown: set[tuple[float, str]] = set()
    unseen_since = time.monotonic()
    while True:
        record = folder.read()
        for line in folder.history():
            if line["type"] == "event" and (line["at"], line["message"]) not in shown:
                shown.add((line["at"], line["message"]))
                note(f"{_clock(line['at'])}  {line['message']}")
        if record is not None and record.state.terminal:
            break
        if place.served(folder):
            unseen_since = time.monotonic()
        elif time.monotonic() - unseen_since > 30:
            what, remedy = place.silence
            raise ServiceError(f"nothing runs the rollout: {what}", where=folder.id, remedy=remedy)
        time.sleep(1.0 if place.remote else 0.2)
    emit(status_of(folder, record), output, table=lambda: status_table(folder, record))
    if record.state.phase not in ("Promoted", "Completed"):
        raise RolloutError(
            record.state.reason or f"the rollout ended as {record.state.phase}",
            where=folder.id,
            remedy=f"See why with: slipway rollout explain {folder.id}",
        )


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
