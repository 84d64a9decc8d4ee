"""`python -m slipway.examples.films.demo --directory demo`: what `make demo` runs.

Every decision is the rollout's own, on what Prometheus counted. Nothing is timed to come out right: the demo starts
rollouts, waits for their end, and fails if one ends otherwise than a good policy should end it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from slipway.contracts.errors import SlipwayError
from slipway.examples.films.demo.commands import Demo
from slipway.examples.films.demo.visitors import Visitors, read_tastes

FIRST = ("model.parameters.factors=4", "model.parameters.epochs=4", "model.features=[]")
"""The first version: four factors, few epochs, no features. Better than popularity, and easy to beat."""

MARK = ".slipway-demo"
"""Tells a folder that a demo made, and may remove, from a project of the user's own."""

THIRD = ("model.seed=43",)
"""The third is as good a model as the second; it is its predictor that has faults."""


def main() -> None:
    """Runs the demo and exits with 0, or says what went wrong and exits with 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("demo"), help="folder that the demo makes")
    parser.add_argument("--rate", type=float, default=120.0, help="visits a second")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an ended demo stops its servers as an interrupted one
    try:
        run(options.directory.resolve(), options.rate)
    except SlipwayError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted; the serving plane was stopped", file=sys.stderr)
        raise SystemExit(130) from None


def run(directory: Path, rate: float) -> None:
    """Makes the project anew, goes through all parts, and writes the report.

    Raises:
        SlipwayError: The folder holds something else than an earlier demo, or a part ended otherwise than it should.
    """
    demo = Demo(directory)
    if directory.exists() and not (directory / MARK).exists():
        raise SlipwayError("this folder is not an earlier demo", where=str(directory), remedy="Name another folder.")
    if directory.exists():
        demo.say(f"an earlier demo is in {directory}: its folder is made anew")
        demo.slipway("down", quiet=True, accept=(0, 1))
        shutil.rmtree(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    demo.directory = directory.parent
    demo.slipway("init", "films", str(directory))
    demo.directory = directory
    (directory / MARK).write_text("made by the demo, and made anew by the next one\n")
    record: dict[str, Any] = {"runs": {}, "rollouts": [], "rate": rate}
    try:
        _go(demo, directory, rate, record)
    finally:
        demo.slipway("down", accept=(0, 1))
    record["parts"] = demo.parts
    record["seconds"] = round(time.monotonic() - demo.began, 1)
    (directory / "demo.json").write_text(json.dumps(record, indent=2))

    from slipway.examples.films.demo.report import write_report

    report = write_report(directory, record)
    demo.say(f"done: open {report}")


def _go(demo: Demo, directory: Path, rate: float, record: dict[str, Any]) -> None:
    demo.say("version 1: a small model, the first of its name")
    _train(demo, record, "1", FIRST)
    demo.slipway("up")
    _roll_out(demo, record, "v1", "films/1", "Promoted")
    demo.say("version 2: more factors, features from Redis")
    features = _train(demo, record, "2", ())
    demo.say("version 3: as good a model, for a predictor that is slow and fails")
    _train(demo, record, "3", THIRD)
    demo.say("version 4: passed every gate, then its export mixed the films up")
    _register_mixed_up(demo, directory)
    _, plane = demo.slipway("status", "-o", "json", quiet=True)
    tastes = read_tastes(features)
    demo.say(f"visitors: {len(tastes)} people, {rate:g} visits a second, through {plane['endpoints']['gateway']}")
    log = directory / "visits.jsonl"
    faulty = ("--set", "serving.predictor=faulty_predictor:FaultyModel")
    with Visitors(plane["endpoints"]["gateway"], "films", tastes, rate=rate, log=log) as visitors:
        visitors.wait_for_visits(14)
        _roll_out(demo, record, "v2", "films/2", "Promoted", visitors)
        _roll_out(demo, record, "v3", "films/3", "RolledBack", visitors, faulty)
        _roll_out(demo, record, "v4", "films/4", "RolledBack", visitors)
        record["visits"], record["unanswered"] = visitors.totals
    demo.say(f"{record['visits']:,} visits, {record['unanswered']} of them without an answer")


def _train(demo: Demo, record: dict[str, Any], version: str, settings: tuple[str, ...]) -> Path:
    overrides = [part for setting in settings for part in ("--set", setting)]
    _, summary = demo.slipway("run", *overrides, "-o", "json")
    record["runs"][version] = summary
    return Path(next(step["outputs"]["features"] for step in summary["steps"] if step["step"] == "featurize"))


def _register_mixed_up(demo: Demo, directory: Path) -> None:
    from slipway.examples.films.demo.mapping_fault import register_mixed_up
    from slipway.models.registry import registry_for

    mixed_up = register_mixed_up(directory, registry_for(directory).get("films", "3"))
    demo.say(f"registered films/{mixed_up.version}: the hashes are right, the films are not")


def _roll_out(
    demo: Demo,
    record: dict[str, Any],
    title: str,
    version: str,
    expected: str,
    visitors: Visitors | None = None,
    settings: tuple[str, ...] = (),
) -> None:
    _, ended = demo.slipway("rollout", "start", version, "--wait", "-o", "json", *settings, accept=(0, 3))
    if not isinstance(ended, dict):
        raise SlipwayError(f"the rollout of {version} was refused; see above", where="demo")
    demo.say(f"{version}: {ended['phase']}. {ended['reason']}")
    people = visitors.people if visitors else {}
    record["rollouts"].append({"title": title, **ended, "people": people})
    if ended["phase"] != expected:
        raise SlipwayError(
            f"{version} ended as {ended['phase']}, and should have been {expected}",
            where="demo",
            remedy=f"See why: slipway rollout explain -f {demo.directory}/slipway.yaml",
        )


if __name__ == "__main__":
    main()
