"""`python -m slipway.serving.rollout --project DIR`: the controller, kept alive by the plane's supervisor."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.contracts.errors import SlipwayError
from slipway.contracts.files import exclusive_lock
from slipway.serving.exposition import serve_metrics
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.rollout.controller import Controller
from slipway.serving.rollout.exported_metrics import ControllerMetrics
from slipway.serving.rollout.local import LocalPlane
from slipway.serving.rollout.store import RolloutStore

if TYPE_CHECKING:
    from slipway.models.registry import Registry

log = logging.getLogger("slipway.rollout")


def _registry(project: Path) -> Registry:
    from slipway.contracts.project import load_project
    from slipway.models.registry import registry_for

    return registry_for(project, load_project(project).tracking.uri)


def _show_last(store: RolloutStore, metrics: ControllerMetrics) -> None:
    """Has a restarted controller export the newest rollout, ended or not, before its first look at another."""
    folders = store.all()
    with contextlib.suppress(SlipwayError):
        record = folders[-1].read() if folders else None
        if record is not None:
            metrics.show(folders[-1].spec, record.state)


def main() -> None:
    """Runs until SIGTERM; one controller a project."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, required=True, help="folder of the project file")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between two looks")
    parser.add_argument("--metrics-port", type=int, help="port of loopback for metrics; none are served without")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())

    layout = PlaneLayout(options.project)
    plane = LocalPlane(options.project, lambda: _registry(options.project))
    store = RolloutStore(layout.rollouts)
    metrics = ControllerMetrics()
    controller = Controller(plane, store, seen=metrics.show)
    with exclusive_lock(layout.rollouts / "controller.lock", holder="the rollout controller", remedy="Wait for it."):
        plane.warm_up()
        _show_last(store, metrics)
        if options.metrics_port is not None:
            serve_metrics(metrics.registry, host="127.0.0.1", port=options.metrics_port)
        while not stop.is_set():
            began = time.monotonic()
            problem: SlipwayError | None = None
            try:
                controller.tick()
            except SlipwayError as error:
                problem = error
                log.error("%s", error)
            metrics.ticked(time.monotonic() - began, problem)
            stop.wait(max(0.0, options.interval - (time.monotonic() - began)))


if __name__ == "__main__":
    main()
