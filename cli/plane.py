"""`slipway up`, `down`, `status` and `logs`: the serving plane of this machine."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import console, emit, note, table_of
from slipway.contracts.errors import SlipwayError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from slipway.contracts.project import Project
    from slipway.serving.local.observed import Observed

_ROTATED = re.compile(r"\.log\.\d+$")


@click.command()
@file_option
@output_option
@click.option("--timeout", default=90.0, show_default=True, metavar="SECONDS", help="Longest wait until all is ready.")
@click.option("--no-wait", is_flag=True, help="Start and return at once.")
def up(file: Path, output: str, timeout: float, *, no_wait: bool) -> None:
    """Start the serving plane and serve the champion.

    Redis, Prometheus, the gateway, the feedback collector, the rollout controller and the predictors run in the
    background until `slipway down`. What crashes is started again. A second `up` changes nothing, or takes over what
    a lost supervisor left.

    \b
    Examples:
      slipway up
      slipway up -f films/slipway.yaml -o json
    """
    from slipway.contracts.project import load_project
    from slipway.serving.local import control
    from slipway.serving.local.arms import settings_for
    from slipway.serving.local.settings import read_settings

    project = load_project(file)
    settings = settings_for(project)
    with control.command_lock(project.directory, "slipway up"):
        was_running = control.is_running(project.directory)
        if was_running:
            with contextlib.suppress(SlipwayError):
                if read_settings(project.directory) != settings:
                    note("The plane runs with other settings than the project file has now: `slipway down`, then `up`.")
        _desire_champion(project, fresh=not was_running)
        control.start(settings)
        if no_wait:
            note("The plane is starting: slipway status")
            return
        with _progress() as progress:
            observed = control.wait_until_ready(project.directory, seconds=timeout, progress=progress)
    emit(_summary(observed), output, table=lambda: _tables(observed, urls=True))
    if not observed.arms:
        note("Nothing is served yet: no version is champion. Bring the first one up with: slipway rollout start")


@click.command()
@file_option
def down(file: Path) -> None:
    """Stop the serving plane: requests in flight are answered, nothing is left running. Logs and metrics stay.

    \b
    Example:
      slipway down
    """
    from slipway.contracts.project import load_project
    from slipway.serving.local import control

    directory = _directory(file, load_project)
    with control.command_lock(directory, "slipway down"), _progress() as progress:
        stopped = control.stop(directory, progress=progress)
    note(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@click.command()
@file_option
@output_option
def status(file: Path, output: str) -> None:
    """Show what is served, with which weights, and how every process is; exit code 1 when the plane is down.

    \b
    Examples:
      slipway status
      slipway status -o json
    """
    from slipway.contracts.project import load_project
    from slipway.serving.local import control
    from slipway.serving.local.observed import read_observed

    directory = _directory(file, load_project)
    observed = read_observed(directory)
    supervisor = control.running_supervisor(directory)
    running = supervisor is not None and observed.supervisor_pid is not None
    emit(
        {"running": running} | _summary(observed),
        output,
        table=lambda: _tables(observed, urls=True) if running else "The plane is not running. Start it: slipway up",
    )
    if running and not observed.is_fresh():
        note(f"The supervisor has said nothing for {time.time() - observed.updated_at:.0f} s: slipway logs supervisor")
    if not running:
        # What serves without a supervisor still answers, and is taken over by the next `up`.
        left = [] if supervisor is not None else _unsupervised(directory)
        if left:
            note(f"Without a supervisor, but running: {', '.join(left)}. `slipway up` takes them over.")
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("name", required=False)
@file_option
@click.option("-n", "--lines", default=20, show_default=True, help="Lines to show of each log.")
@click.option("-F", "--follow", is_flag=True, help="Go on with lines as they come; Ctrl-C ends it.")
def logs(name: str | None, file: Path, lines: int, *, follow: bool) -> None:
    """Show the logs of a process, of all processes of an arm, or of everything.

    NAME is supervisor, redis, prometheus, gateway, collector, controller, features, an arm (films-v2) or one of its
    processes (films-v2-0).

    \b
    Examples:
      slipway logs gateway -n 50
      slipway logs films-v2 -F
    """
    from slipway.contracts.project import load_project
    from slipway.serving.local.layout import PlaneLayout
    from slipway.serving.local.logs import follow as follow_logs
    from slipway.serving.local.logs import last_lines

    folder = PlaneLayout(_directory(file, load_project)).logs
    paths = sorted(path for path in folder.glob("*.log") if not _ROTATED.search(path.name))
    if name is not None:
        known = [path.stem for path in paths]
        paths = [path for path in paths if path.stem == name or re.fullmatch(rf"{re.escape(name)}-\d+", path.stem)]
        if not paths:
            raise UsageError(f"there is no log of {name!r}", remedy=f"There are: {', '.join(known) or 'none yet'}.")
    if not paths:
        note(f"no logs yet in {folder}")
    several = len(paths) > 1

    def show(path: Path, line: str) -> None:
        click.echo(f"{path.stem} | {line}" if several else line)

    for path in paths:
        for line in last_lines(path, lines):
            show(path, line)
    if follow:
        for path, line in follow_logs(paths, stop=lambda: False):
            show(path, line)


def _directory(file: Path, load: Callable[[Path], Project]) -> Path:
    """Returns the project's folder; a broken project file must not keep its plane from being seen and stopped."""
    try:
        return load(file).directory
    except SlipwayError:
        folder = file.absolute().parent
        if (folder / ".slipway" / "serving").is_dir():
            return folder
        raise


def _desire_champion(project: Project, *, fresh: bool) -> None:
    """Writes what the plane should serve; a running plane that serves something is left as it is."""
    from slipway.models.registry import CHAMPION, registry_for
    from slipway.serving.local.arms import arm_for, desired_at_start
    from slipway.serving.local.desired import read_desired, update_desired

    if not fresh and read_desired(project.directory).arms:
        return
    registry = registry_for(project.directory, project.tracking.uri)
    champion = registry.find(project.name, CHAMPION)
    arm = None if champion is None else arm_for(project, registry.with_bundle(champion))
    update_desired(project.directory, lambda current: desired_at_start(current, arm))


def _unsupervised(directory: Path) -> list[str]:
    from slipway.serving.local.layout import PlaneLayout
    from slipway.serving.local.records import is_same, read_records

    records = read_records(PlaneLayout(directory).processes)
    return [record.name for record in records if is_same(record.pid, record.started_at)]


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Shows what is waited for: one moving line on a terminal, a line a change elsewhere."""
    shell = console(stderr=True)
    if shell.is_terminal:
        with shell.status("starting") as spinner:
            yield lambda text: spinner.update(text if text.startswith("stopping") else f"waiting for {text}")
        return
    last = ""

    def tell(text: str) -> None:
        nonlocal last
        if text != last:
            last = text
            note(text if text.startswith("stopping") else f"waiting for {text}")

    yield tell


def _summary(observed: Observed) -> dict[str, Any]:
    return observed.model_dump(mode="json")


def _tables(observed: Observed, *, urls: bool) -> RenderableType:
    from rich.console import Group

    arms = [
        {
            "arm": name,
            "weight": arm.weight_applied,
            "ready": f"{arm.ready}/{arm.total}",
            "state": "crash loop" if arm.crash_looping else arm.state,
            "restarts": arm.restarts,
            "problem": arm.problem,
        }
        for name, arm in observed.arms.items()
    ]
    processes = [
        {"process": name, "state": one.state, "pid": str(one.pid or "-"), "restarts": one.restarts, "address": ""}
        for name, one in observed.services.items()
    ] + [
        {
            "process": replica.name,
            "state": replica.state,
            "pid": str(replica.pid or "-"),
            "restarts": replica.restarts,
            "address": replica.url,
        }
        for arm in observed.arms.values()
        for replica in arm.replicas
    ]
    for row in processes:
        row["address"] = row["address"] or observed.endpoints.get(str(row["process"]), "")
    parts: list[RenderableType] = []
    if arms:
        parts.append(table_of(arms, ["arm", "weight", "ready", "state", "restarts", "problem"]))
    parts.append(table_of(processes, ["process", "state", "pid", "restarts", "address"]))
    if urls and "gateway" in observed.endpoints:
        models = sorted({name.rsplit("-v", 1)[0] for name in observed.arms}) or ["MODEL"]
        parts += [f"predictions  {observed.endpoints['gateway']}/v1/models/{model}:predict" for model in models]
        if "collector" in observed.endpoints:
            parts.append(f"feedback     {observed.endpoints['gateway']}/v1/feedback")
        parts.append(f"metrics      {observed.endpoints['prometheus']}")
    return Group(*parts)
