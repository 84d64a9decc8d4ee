"""Which steps a run has, read from the flat list of nodes that Kubeflow Pipelines returns.

Its API names each node by the last part of its name only, and children by Argo's id: the workflow's name and the 32-bit
FNV-1a hash of the child's whole name. `films-x(0).root(0).train(0).executor(1)` is the second attempt at train's
container. So the tree is found by building names and looking whether their ids occur.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ATTEMPT = re.compile(r"\(\d+\)$")
_EXECUTOR = "executor"


@dataclass(frozen=True)
class Step:
    """A step of a run: its name, and the ids of the attempts at its container, none if the cache had its outcome."""

    name: str
    attempts: tuple[str, ...]


def steps_of(details: Sequence[Mapping[str, Any]]) -> list[Step]:
    """Returns the steps that a run came to; groups, drivers and what was left out are no steps.

    Args:
        details: `run_details.task_details` of the API.
    """
    ids = {
        str(child["pod_name"]) for entry in details for child in entry.get("child_tasks") or () if "pod_name" in child
    }
    workflow = next((identifier.rpartition("-")[0] for identifier in sorted(ids)), "")
    names = sorted({_ATTEMPT.sub("", str(entry["display_name"])) for entry in details if entry.get("display_name")})
    return list(_below(workflow, workflow, names, ids)) if workflow else []


def _below(path: str, workflow: str, names: list[str], ids: set[str]) -> Iterator[Step]:
    attempts = _attempts(path, workflow, ids)
    if not attempts:
        return
    children = [f"{attempts[-1]}.{name}" for name in names if node_id(workflow, f"{attempts[-1]}.{name}") in ids]
    executor = f"{attempts[-1]}.{_EXECUTOR}"
    if executor in children:
        containers = _attempts(executor, workflow, ids)
        yield Step(path.rpartition(".")[2], tuple(node_id(workflow, name) for name in containers))
        return
    for child in children:
        yield from _below(child, workflow, names, ids)


def _attempts(path: str, workflow: str, ids: set[str]) -> list[str]:
    found: list[str] = []
    while node_id(workflow, f"{path}({len(found)})") in ids:
        found.append(f"{path}({len(found)})")
    return found


def node_id(workflow: str, name: str) -> str:
    """Returns the id that Argo Workflows gives a node."""
    if name == workflow:
        return workflow
    value = 2166136261
    for byte in name.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return f"{workflow}-{value}"
