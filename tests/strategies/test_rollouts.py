"""Whole rollouts of each strategy: the controller's own loop on a real plane, under traffic that must not notice."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from slipway.contracts.rollout import ArmTarget, RolloutSpec
from slipway.serving.rollout.controller import Controller
from slipway.serving.rollout.core.types import Phase
from slipway.serving.rollout.local import LocalPlane
from slipway.serving.rollout.store import RolloutFolder, RolloutStore

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("strategies_rollouts")]

ERRORS = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5, "absolute": 0.05}, "requires": "noHarm"}
NO_DATA = {"hold_for": "30s"}


class Aliases:
    """The part of a registry that a controller needs."""

    def __init__(self) -> None:
        self.champion = "1"

    def get(self, model: str, alias: str) -> Any:
        assert (model, alias) == ("films", "champion")
        return type("Version", (), {"version": self.champion})

    def set_alias(self, model: str, alias: str, version: str) -> None:
        assert (model, alias) == ("films", "champion")
        self.champion = version


class Run:
    """One rollout from version 1 to version 2, looked at until something is so."""

    def __init__(self, plane: Any, policy: dict[str, Any], *, arms: list[Any] | None = None, **candidate: str) -> None:
        self.plane = plane
        self.aliases = Aliases()
        arms = arms or [plane.arm("1"), plane.arm("2", environment=candidate)]
        targets = [ArmTarget(arm=arm.name, version=arm.version, digest=f"digest-{arm.version}") for arm in arms]
        self.spec = RolloutSpec(
            id=f"rollout-{policy['strategy']}-{len(candidate)}",
            model="films",
            candidates=(targets[1],),
            stable=targets[0],
            policy={"guardrails": [ERRORS], "no_data": NO_DATA} | policy,
        )
        store = RolloutStore(plane.settings().layout.rollouts)
        self.folder: RolloutFolder = store.create(self.spec, {arm.name: arm for arm in arms})
        self.controller = Controller(LocalPlane(plane.directory, lambda: self.aliases), store)  # type: ignore[arg-type, return-value]

    @property
    def state(self) -> Any:
        record = self.folder.read()
        return None if record is None else record.state

    def until(self, condition: Callable[[], bool], seconds: float = 45.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.state
            self.controller.tick()
            time.sleep(0.05)

    def until_phase(self, phase: Phase) -> None:
        self.until(lambda: self.state is not None and self.state.phase is phase)


@pytest.fixture
def serving(shared_plane: Any, wanted: Any) -> Any:
    """Version 1 at full size with all traffic, and nothing else."""
    wanted(shared_plane, [shared_plane.arm("1")], {"films-v1": 100})
    shared_plane.up()
    shared_plane.eventually(lambda: set(shared_plane.observed.arms) == {"films-v1"})
    return shared_plane


def shadow(**changes: Any) -> dict[str, Any]:
    step = {"weight": 0, "mirror": 100, "minimum_dwell": "1s", "minimum_samples": 300}
    return {"strategy": "shadow", "steps": [step], **changes}


def test_a_shadow_ends_with_a_verdict_and_no_user_ever_saw_its_answers(serving: Any, visitors: Any) -> None:
    run = Run(serving, shadow())
    with visitors(serving.gateway_port) as load:
        run.until_phase(Phase.COMPLETED)
    assert load.codes == {200: load.sent}
    assert load.versions == {"1": load.sent}
    assert run.state.verdicts[0].samples >= 300
    assert run.aliases.champion == "1"
    serving.eventually(lambda: set(serving.observed.arms) == {"films-v1"})
    assert serving.observed.mirrors_desired == {}


def test_a_shadow_that_fails_every_request_goes_back_and_no_user_noticed(serving: Any, visitors: Any) -> None:
    run = Run(serving, shadow(), STANDIN_FAULTY="1")
    with visitors(serving.gateway_port) as load:
        run.until_phase(Phase.ROLLED_BACK)
    assert load.codes == {200: load.sent}
    assert "Evidence of harm" in run.state.reason
    serving.eventually(lambda: set(serving.observed.arms) == {"films-v1"})


def test_green_takes_over_at_once_and_blue_takes_back_within_two_seconds_of_the_watch(
    serving: Any, visitors: Any
) -> None:
    steps = [{"weight": 100, "minimum_dwell": "1s", "minimum_samples": 100}]
    run = Run(serving, {"strategy": "blueGreen", "steps": steps, "watch": {"duration": "10m"}})
    with visitors(serving.gateway_port) as load:
        run.until_phase(Phase.WATCHING)
        assert (run.aliases.champion, serving.observed.arms["films-v1"].ready) == ("2", 2)
        sent, from_blue = load.sent, load.versions["1"]
        run.until(lambda: load.sent > sent + 300)
        assert load.versions["1"] == from_blue
        began = time.monotonic()
        run.folder.give("abort", by="a test")
        run.until(lambda: serving.applied({"films-v1": 100}))
        seconds = time.monotonic() - began
        run.until_phase(Phase.ROLLED_BACK)
    assert load.codes == {200: load.sent}
    assert load.versions["2"] > 200
    assert seconds < 2.0
    assert run.aliases.champion == "1"


def test_users_of_an_ab_test_see_one_version_until_it_is_decided(
    plane: Any, wanted: Any, visitors: Any, bundle: Any, real_predictors: Any
) -> None:
    arms = [plane.arm(version, replicas=1, bundle=bundle(0.0)) for version in ("1", "2")]
    wanted(plane, arms[:1], {"films-v1": 100})
    plane.up(**real_predictors)
    steps = [{"weight": 50, "minimum_dwell": "1s", "minimum_samples": 400}, {"weight": 100, "minimum_dwell": "1s"}]
    run = Run(plane, {"strategy": "abTest", "assignment": "user", "steps": steps}, arms=arms)
    with visitors(plane.gateway_port, users=400) as load:
        run.until(lambda: run.state is not None and run.state.step_since is not None)
        load.versions_of.clear()
        run.until(lambda: run.state.step == 1)
        seen = {user: set(versions) for user, versions in dict(load.versions_of).items()}
        run.until_phase(Phase.PROMOTED)
        sent = load.sent
        plane.eventually(lambda: load.sent > sent + 50)
        assert plane.ask(body=b'{"instances":[{"user":"7"}]}')[1]["model_version"] == "2"
    assert load.codes == {200: load.sent}
    # A few answers of the last moment may come from the next step.
    assert sum(len(versions) > 1 for versions in seen.values()) <= load.clients
    share = sum("2" in versions for versions in seen.values()) / len(seen)
    assert abs(share - 0.5) < 4 * (0.25 / len(seen)) ** 0.5
    split = next(verdict for verdict in run.state.verdicts if verdict.guardrail == "errors")
    assert split.stable_samples > 100
