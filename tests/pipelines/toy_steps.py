"""Two throwaway steps, count -> double; what they do is told by their settings."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pydantic import BaseModel

from slipway.components.progress import Progress
from slipway.contracts.artifacts import read_manifest, write_artifact
from slipway.contracts.errors import GateError


class CountRequest(BaseModel):
    number: int
    troubles: tuple[str, ...] = ()
    marker: str = ""
    numbers: Path


class DoubleRequest(BaseModel):
    numbers: Path
    doubled: Path
    checkpoint: Path | None = None
    seconds: float = 0.0


class ToyResult(BaseModel):
    output: Path
    metrics: dict[str, float]


def _trouble_of_this_attempt(request: CountRequest) -> str:
    """Each attempt meets the next of the troubles; after the last there is none."""
    if not request.marker:
        return next(iter(request.troubles), "")
    marker = Path(request.marker)
    attempt = int(marker.read_text()) if marker.exists() else 0
    marker.write_text(str(attempt + 1))
    return request.troubles[attempt] if attempt < len(request.troubles) else ""


def count(request: CountRequest, progress: Progress) -> ToyResult:
    print("counting")
    trouble = _trouble_of_this_attempt(request)
    if trouble == "refuse":
        raise GateError("the number is too small", remedy="Choose a greater one.")
    if trouble == "surprise":
        raise ZeroDivisionError("surprise")
    if trouble == "crash":
        os._exit(7)
    if trouble == "hang":
        time.sleep(600)
    with write_artifact(request.numbers, kind="numbers", slipway_version="1") as draft:
        for number in progress.track(range(request.number), "counting"):
            (draft.path / f"{number}.txt").write_text(str(number))
        (draft.path / "report.md").write_text("# Numbers\n")
    return ToyResult(output=request.numbers, metrics={"count": request.number, "undefined": float("nan")})


def double(request: DoubleRequest, progress: Progress) -> ToyResult:
    manifest = read_manifest(request.numbers, verify=True)
    total = 0
    for part in progress.track(range(10), "doubling"):
        done = request.checkpoint / str(part) if request.checkpoint else None
        if done is not None and done.exists():
            progress.note(f"part {part} was done")
        else:
            time.sleep(request.seconds / 10)
            if done is not None:
                done.parent.mkdir(parents=True, exist_ok=True)
                done.touch()
        total += 2 * len(manifest.files)
    with write_artifact(request.doubled, kind="doubled", slipway_version="1") as draft:
        (draft.path / "total.txt").write_text(str(total))
        draft.parents = [manifest.as_parent("numbers")]
    return ToyResult(output=request.doubled, metrics={"total": total})
