"""Starts the processes that train together, by torchrun's own agent, and follows them to their end.

On one machine they meet on loopback, at a port that is free. In a pod of a TrainJob the variables PET_* of Kubeflow
Trainer say how many pods and processes there are and where they meet; the process with rank 0 is in the first pod.
Whatever ends this process ends those that it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.components.progress import Progress
from slipway.contracts.errors import EnvironmentProblemError, SlipwayError, UsageError, require_extra
from slipway.contracts.files import write_json

if TYPE_CHECKING:
    from slipway.components.train.step import TrainRequest

TASK_FILE = "task.json"
EVENTS_FILE = "events.jsonl"
LOST = "LostProcessError"
"""The name under which a process reports that another one is gone: a consequence, not the cause."""

_POLL_SECONDS = 0.2
_WORKER = "slipway.components.train.worker"


@dataclass(frozen=True)
class Group:
    """The processes of a training: `nodes` machines or pods with `per_node` each; this is the machine `node`."""

    nodes: int = 1
    per_node: int = 1
    node: int = 0

    @property
    def size(self) -> int:
        """How many processes train together."""
        return self.nodes * self.per_node

    @classmethod
    def of(cls, processes: int, environment: Mapping[str, str] | None = None) -> Group:
        """Returns the group that PET_* variables describe, or else `processes` on this machine.

        Raises:
            UsageError: The variables cannot be understood, or this is itself a process of torchrun.
        """
        given = os.environ if environment is None else environment
        if "TORCHELASTIC_RUN_ID" in given:
            raise UsageError(
                "the step was started by torchrun",
                where="step train",
                remedy="Start it with python -m slipway.components.train: it starts its processes itself.",
            )
        if "PET_NNODES" not in given:
            return cls(per_node=processes)
        try:
            per_node = int(given.get("PET_NPROC_PER_NODE", "1"))
            return cls(int(given["PET_NNODES"].partition(":")[0]), per_node, int(given.get("PET_NODE_RANK", "0")))
        except ValueError as error:
            raise UsageError(
                f"the variables PET_NNODES, PET_NPROC_PER_NODE and PET_NODE_RANK must be numbers ({error})",
                where="step train",
                remedy="Name numNodes and numProcPerNode in the TrainJob.",
            ) from None


def launch(request: TrainRequest, target: Path, group: Group, progress: Progress) -> None:
    """Trains with several processes; the first one writes the bundle into `target`.

    Args:
        request: What to train.
        target: An existing folder; on machines other than the first nothing is written there.
        group: The processes.
        progress: Told what the first process reports.

    Raises:
        SlipwayError: What the first process to fail raised, or that it was killed. The others have ended.
        EnvironmentProblemError: PyTorch is missing.
        KeyboardInterrupt: This process was told to stop; the others have ended.
    """
    try:
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import elastic_launch
        from torch.distributed.run import config_from_args, get_args_parser
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise require_extra("torch", "neural") from error

    scratch = Path(tempfile.mkdtemp(prefix="slipway-train-"))
    try:
        write_json(
            scratch / TASK_FILE,
            {"request": request.model_dump(mode="json"), "target": str(target), "launcher": os.getpid()},
        )
        with _environment(group), _signals_restored(), _followed(scratch / EVENTS_FILE, progress):
            arguments = [*_options(group, scratch), "-m", _WORKER, str(scratch)]
            config, entry, rest = config_from_args(get_args_parser().parse_args(arguments))
            try:
                elastic_launch(config, entry)(*rest)
            except ChildFailedError as error:
                raise _cause(error.failures, scratch, group) from None
            except SignalException:
                raise KeyboardInterrupt from None
            except (RuntimeError, TimeoutError, OSError) as error:
                raise _unmet(error, group) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def error_file(scratch: Path, rank: int) -> Path:
    """Returns where a process says why it failed."""
    return scratch / f"error-{rank}.json"


def _options(group: Group, scratch: Path) -> list[str]:
    options = ["--max-restarts=0", f"--log-dir={scratch / 'logs'}"]
    if "PET_NNODES" in os.environ:
        return options  # torchrun's parser reads all PET_* variables itself
    meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    return [*options, "--nnodes=1", f"--nproc-per-node={group.per_node}", *meeting]


@contextlib.contextmanager
def _environment(group: Group) -> Iterator[None]:
    # Each process computes with one thread: the order of its sums must not depend on the machine.
    wanted = {"OMP_NUM_THREADS": "1"}
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if group.nodes == 1 and loopback is not None:
        # Gloo would look for the address of this machine's name, which need not have one.
        wanted["GLOO_SOCKET_IFNAME"] = loopback
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _signals_restored() -> Iterator[None]:
    """Gives back the handlers that torchrun's agent replaces by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _followed(events: Path, progress: Progress) -> Iterator[None]:
    """Passes on what the first process reports, while the block runs."""
    done = threading.Event()
    events.touch()

    def follow() -> None:
        rest = b""
        with events.open("rb") as handle:
            while True:
                ending = done.is_set()
                lines = (rest + handle.read()).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    _pass_on(json.loads(line), progress)
                if ending:
                    return
                done.wait(_POLL_SECONDS)

    follower = threading.Thread(target=follow, name="training-events", daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join()


def _pass_on(event: Mapping[str, Any], progress: Progress) -> None:
    if event["event"] == "progress":
        if event["description"] != progress.description:
            progress.stage(event["description"], event["total"])
        progress.update(event["completed"])
    elif event["event"] == "note":
        progress.note(event["message"])
    elif event["event"] == "metric":
        progress.metric(event["name"], event["value"])


def _cause(failures: Mapping[int, Any], scratch: Path, group: Group) -> SlipwayError:
    """Returns why the training failed, as the likeliest cause among what each process that failed shows.

    When one is gone the others fail as well: they miss it, or torchrun's agent ends them by SIGTERM.
    """
    said = {rank: _read_error(error_file(scratch, rank)) for rank in failures}

    def order(rank: int) -> tuple[int, int]:
        code, content = failures[rank].exitcode, said[rank]
        if code < 0:
            return (0 if -code != signal.SIGTERM else 4 if group.nodes > 1 else 2), rank
        if content is None:
            return 1, rank
        return (3 if content["error"] == LOST else 1), rank

    rank = min(failures, key=order)
    failure, content = failures[rank], said[rank]
    if failure.exitcode < 0:
        return SlipwayError(
            f"process {rank} of {group.size} was killed by {failure.signal_name()}",
            where="step train",
            remedy="If nobody killed it, the memory of this machine did not suffice. Run the step again: it goes "
            "on from its last checkpoint.",
        )
    if content is None:
        return SlipwayError(
            f"process {rank} of {group.size} ended with exit code {failure.exitcode}",
            where="step train",
            remedy="Its output is in the log.",
        )
    return _as_error(content)


def _read_error(file: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def _as_error(content: Mapping[str, Any]) -> SlipwayError:
    known = {kind.__name__: kind for kind in _kinds(SlipwayError)}
    kind = known.get(str(content["error"]), SlipwayError)
    try:
        error = kind(content["what"], where=content["where"], remedy=content["remedy"])
    except TypeError:
        error = SlipwayError(content["what"], where=content["where"], remedy=content["remedy"])
    error.exit_code = int(content["exit_code"])
    return error


def _kinds(base: type[SlipwayError]) -> Iterator[type[SlipwayError]]:
    yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)


def _unmet(error: Exception, group: Group) -> SlipwayError:
    place = f"{os.environ.get('PET_MASTER_ADDR', '127.0.0.1')}:{os.environ.get('PET_MASTER_PORT', '')}".rstrip(":")
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return EnvironmentProblemError(
        f"the {group.size} processes could not meet ({reason})",
        where=place,
        remedy="Check that every pod of the training runs and can reach the first one.",
    )
