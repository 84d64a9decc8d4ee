"""Overhead of a local pipeline step over the step's own work.

A chain of trivial steps is run through the local runner with 2 and with 12 steps; the difference, a tenth of it, is
what one step takes. The same step called as a plain process is its own work (interpreter, imports, writing an
artifact). The overhead is the difference of the two. Run: python benchmarks/step_overhead.py
"""

# KFP reads annotations at run time: no `from __future__ import annotations` here.

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHORT, LONG, REPETITIONS = 2, 12, 3


def build(settings: dict[str, Any]) -> Any:
    """Returns a chain of `settings["length"]` trivial steps."""
    from kfp import dsl

    @dsl.component(base_image="python", install_kfp_package=False)
    def trivial(step: str, made: dsl.Output[dsl.Dataset], metrics: dsl.Output[dsl.Metrics]):  # type: ignore[no-untyped-def]
        import step_overhead

        from slipway.components.wrapper import run_component

        run_component(
            step,
            lambda: (step_overhead.request_type(), step_overhead.work),
            config="{}",
            inputs={},
            outputs={"output": made},
            metrics=metrics,
        )

    @dsl.pipeline(name="chain")
    def chain() -> None:
        previous = None
        for number in range(settings["length"]):
            task = trivial(step=f"step{number}")
            if previous is not None:
                task.after(previous)
            previous = task

    return chain


def request_type() -> Any:
    """Returns the type of the trivial step's request."""
    from pydantic import create_model

    return create_model("Trivial", output=(Path, ...))


def work(request: Any, progress: Any) -> Any:  # noqa: ARG001
    """Writes one small artifact."""
    from slipway.contracts.artifacts import write_artifact

    with write_artifact(request.output, kind="trivial", slipway_version="0") as draft:
        (draft.path / "text.txt").write_text("done")
    return request


def run_chain(folder: Path, length: int, run: int) -> float:
    """Returns the seconds of a run of `length` steps."""
    from slipway.pipelines.runners.job import Job
    from slipway.pipelines.runners.local import run_job

    steps = tuple(f"step{number}" for number in range(length))
    job = Job(
        project="chain",
        run_id=f"{length}-{run}",
        directory=folder / f"{length}-{run}",
        cache=folder / "cache",
        pipeline="step_overhead:build",
        settings={"length": length},
        steps=steps,
        forced=steps if run >= 0 else (),
    )
    started = time.perf_counter()
    report = run_job(job)
    assert report.status == "done", report.error()
    return time.perf_counter() - started


def run_plain(folder: Path) -> float:
    """Returns the seconds of the same work as a plain process."""
    program = (
        "import sys; from pathlib import Path; import step_overhead\n"
        "from slipway.components.harness import perform\n"
        "from slipway.components.progress import LogProgress\n"
        "out = Path(sys.argv[1])\n"
        "request = step_overhead.request_type()(output=out / 'made')\n"
        "perform('plain', request, step_overhead.work, LogProgress(), outcome=out)\n"
    )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Measures and prints one JSON object."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short = min(run_chain(folder, SHORT, run) for run in range(REPETITIONS))
        long = min(run_chain(folder, LONG, run) for run in range(REPETITIONS))
        cached = run_chain(folder, LONG, -1)
        plain = statistics.median(run_plain(folder) for _ in range(10))
    step = (long - short) / (LONG - SHORT)
    figures = {
        "seconds a step": step,
        "seconds of the step's own work": plain,
        "overhead in seconds": step - plain,
        "seconds of a run's start (kfp's import)": short - SHORT * step,
        f"seconds of a run of {LONG} cached steps": cached,
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
