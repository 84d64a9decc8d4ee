"""Where public requests go while the processes that draw users come, go and fail."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slipway.serving.local import user_routing
from slipway.serving.local.desired import Arm, Desired
from slipway.serving.local.ports import PortBook
from slipway.serving.local.settings import PlaneSettings
from slipway.serving.local.user_routing import UserRouting


class Setting:
    """Routing whose processes and clock the test sets."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.said: list[str] = []
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(user_routing, "time", clock)
        self.settings = PlaneSettings(project="films", directory=directory)
        ports = PortBook(directory / "ports.json", fixed={"gateway-assigned": 20_000}, free=lambda _: True)
        self.routing = UserRouting(self.settings, ports, self.said.append)

    def want(self, first: int, second: int) -> None:
        arms = tuple(
            Arm(name=f"films-v{version}", model="films", version=version, bundle=Path("/bundle")) for version in "12"
        )
        weights = {"films-v1": first, "films-v2": second}
        self.routing.prepare(Desired(arms=arms, weights=weights, assignment="user"))

    def ready(self, *flags: bool) -> list[str]:
        for process, flag in zip(self.routing.processes.values(), flags, strict=True):
            process.ready, process.was_ready = flag, process.was_ready or flag
        return [url.rsplit(":", 1)[0] for url in self.routing.urls()]


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return Setting(tmp_path, monkeypatch)


def test_requests_go_to_the_processes_that_are_ready_and_past_all_only_after_a_while(setting: Any) -> None:
    setting.want(50, 50)
    assert setting.ready(False, False) == []  # still starting: the gateway goes on drawing requests
    assert len(setting.ready(True, False)) == 1
    assert len(setting.ready(True, True)) == 2
    # Requests under way when routes change try the old ones again: they change no more than they must.
    assert len(setting.ready(False, True)) == 2
    assert len(setting.ready(False, False)) == 2
    setting.now += 10.0
    assert setting.ready(False, False) == []
    assert len(setting.ready(False, True)) == 1


def test_nothing_goes_to_processes_that_stop_where_users_are_drawn_again_meanwhile(setting: Any) -> None:
    setting.want(50, 50)
    setting.ready(True, True)
    setting.want(0, 0)
    setting.now += 1.5
    for process in setting.routing.processes.values():
        process.stop()
        process.heard(ready=True)  # a probe that was under way
    assert setting.routing.urls() == ()
    setting.want(50, 50)
    assert setting.routing.urls() == ()


def test_the_file_is_private_and_weights_that_are_no_split_draw_no_users(setting: Any) -> None:
    setting.want(50, 50)
    file = setting.settings.layout.assignment
    assert file.stat().st_mode & 0o777 == 0o600
    assert setting.settings.layout.assignment_secret.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["arms"] == {"films-v1": 50, "films-v2": 50}
    setting.ready(True, True)
    setting.want(50, 20)
    assert setting.routing.urls() == ()
    assert setting.said == ["users cannot be drawn (weights do not sum to 100): requests are"]
    assert json.loads(file.read_text())["arms"] == {"films-v1": 50, "films-v2": 50}
