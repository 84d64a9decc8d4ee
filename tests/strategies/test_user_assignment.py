"""Users who stay with a version: across processes, restarts and ramps, counted for it, and answered throughout."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from slipway.contracts.rollout import ASSIGNMENT, ArmTarget
from slipway.serving.local import control
from slipway.serving.rollout.core.assignment import log_evidence_of_mismatch, log_split_likelihoods, shift_grid
from slipway.serving.rollout.core.health import weights_in_force
from slipway.serving.rollout.core.observations import Observations
from slipway.serving.rollout.core.types import SetWeights
from slipway.serving.rollout.local import LocalPlane
from slipway.serving.rollout.queries import queries_for
from slipway.serving.rollout.readings import CounterReader, Snapshot

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("strategies_users")]

ALPHA = 0.05


class Trial:
    """Two versions on one plane, their traffic set as a rollout's controller sets it."""

    def __init__(self, plane: Any) -> None:
        self.plane = plane
        self.arms = {arm.name: arm for arm in (plane.arm("1"), plane.arm("2"))}
        self.local = LocalPlane(plane.directory, lambda: pytest.fail("nothing here needs the registry"))

    def set(self, weights: dict[str, int], assignment: Any = "user", in_force: str = "") -> None:
        """Has the weights set, and waits until a rollout would believe that they are in force."""
        self.local.carry_out(SetWeights(weights, assignment=assignment), self.arms)
        self.plane.eventually(lambda: self.in_force(weights, in_force or assignment))

    def in_force(self, weights: dict[str, int], assignment: str) -> bool:
        observed = self.plane.observed
        arms = self.local.arms(observed, {})
        return observed.assignment_applied == assignment and weights_in_force(weights, Observations(0.0, arms))

    def kill(self, *names: str) -> None:
        pids = self.plane.pids()
        for name in names:
            with contextlib.suppress(ProcessLookupError, KeyError, TypeError):  # dead already, or not there yet
                os.kill(pids[name], signal.SIGKILL)

    def kill_until(self, condition: Callable[[], bool], *names: str) -> None:
        """Kills these processes, again when they come again, until something is so."""

        def killed() -> bool:
            self.kill(*names)
            return condition()

        self.plane.eventually(killed)


@pytest.fixture
def trial(shared_plane: Any, wanted: Any) -> Any:
    """A plane with two versions whose users are told apart half and half."""
    trial = Trial(shared_plane)
    if not control.is_running(shared_plane.directory):
        wanted(shared_plane, [*trial.arms.values()], {"films-v1": 100, "films-v2": 0})
        shared_plane.up()
    shared_plane.eventually(lambda: [arm.ready for arm in shared_plane.observed.arms.values()] == [2, 2])
    trial.set({"films-v1": 50, "films-v2": 50})
    return trial


def test_users_are_split_as_set_and_stay_through_restarts_of_everything(
    trial: Any, mapping: Any, visitors: Any
) -> None:
    plane = trial.plane
    first = mapping(plane)
    on_second = sum(version == "2" for version in first.values())
    assert abs(on_second - 100) < 4 * math.sqrt(200 * 0.25)
    with visitors(plane.gateway_port) as load:
        plane.eventually(lambda: load.sent > 200)
        trial.kill("router-0")
        plane.eventually(lambda: load.sent > 600)
        trial.kill("films-v1-0", "films-v2-1")
        sent = load.sent
        plane.eventually(lambda: load.sent > sent + 600)
    # One process of each is left, so that no user had to go elsewhere.
    assert load.codes == {200: load.sent}
    assert load.versions_of == {user: {version} for user, version in first.items()}
    supervisor = control.running_supervisor(plane.directory)
    os.kill(supervisor, signal.SIGKILL)
    plane.eventually(lambda: control.running_supervisor(plane.directory) is None)
    routers = {plane.pids()[name] for name in ("router-0", "router-1")}
    plane.up()
    plane.eventually(lambda: trial.in_force({"films-v1": 50, "films-v2": 50}, "user"))
    assert {plane.pids()[name] for name in ("router-0", "router-1")} == routers
    assert mapping(plane) == first


def test_a_ramp_moves_users_one_way_only_and_another_rollout_draws_them_anew(trial: Any, mapping: Any) -> None:
    trial.set({"films-v1": 80, "films-v2": 20})
    small = mapping(trial.plane)
    trial.set({"films-v1": 50, "films-v2": 50})
    large = mapping(trial.plane)
    early = {user for user, version in small.items() if version == "2"}
    late = {user for user, version in large.items() if version == "2"}
    assert early < late
    another = {**trial.arms, "films-v3": trial.plane.arm("3")}
    action = SetWeights({"films-v1": 50, "films-v2": 50}, assignment="user")
    trial.local.carry_out(action, another)
    # Until both processes have read the file.
    anew = trial.plane.eventually(
        lambda: (now := mapping(trial.plane)) != large and now == mapping(trial.plane) and now
    )
    moved = sum(anew[user] != large[user] for user in large)
    assert abs(moved - 100) < 4 * math.sqrt(200 * 0.25)
    # The same rollout, tried again, finds its users where they were.
    trial.set({"films-v1": 50, "films-v2": 50})
    trial.plane.eventually(lambda: mapping(trial.plane) == mapping(trial.plane) == large)


def test_users_count_for_their_arm_and_a_split_that_is_broken_on_purpose_is_evidence_of_a_mismatch(
    trial: Any, mapping: Any, visitors: Any
) -> None:
    plane, users = trial.plane, 400
    expected = mapping(plane, users)
    counted = requests_counted(trial, visitors, users)
    assert counted == {f"films-v{version}": list(expected.values()).count(version) for version in ("1", "2")}
    assert evidence(counted) < math.log(1 / ALPHA)

    file = plane.settings().layout.assignment
    broken = json.loads(file.read_text()) | {"arms": {"films-v1": 80, "films-v2": 20}}
    supervisor = control.running_supervisor(plane.directory)
    os.kill(supervisor, signal.SIGSTOP)  # which would put it right again
    try:
        file.with_suffix(".new").write_text(json.dumps(broken))
        file.with_suffix(".new").replace(file)
        plane.eventually(lambda: mapping(plane, users) != expected)
        counted = requests_counted(trial, visitors, 1000)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert evidence(counted) > math.log(1 / ALPHA)
    plane.eventually(lambda: mapping(plane, users) == expected)


def test_an_arm_that_is_gone_counts_its_errors_and_its_users_are_answered_by_the_other(
    trial: Any, visitors: Any, counts: Any
) -> None:
    plane = trial.plane
    errors = counts(plane, "films-v2", "502"), counts(plane, "films-v1", "502")
    with visitors(plane.gateway_port) as load:
        plane.eventually(lambda: load.sent > 300)
        # The weight is told as it is: nobody gets a version that is not there.
        trial.kill_until(lambda: plane.observed.arms["films-v2"].weight_applied == 0, "films-v2-0", "films-v2-1")
        load.versions_of.clear()
        plane.eventually(lambda: trial.in_force({"films-v1": 50, "films-v2": 50}, "user"))
        plane.eventually(lambda: len(load.versions_of) == 200)
    assert load.codes == {200: load.sent}
    assert counts(plane, "films-v2", "502") > errors[0]
    assert counts(plane, "films-v1", "502") == errors[1]


def test_with_every_drawing_process_dead_users_are_answered_and_the_plane_says_that_they_are_not_told_apart(
    trial: Any, mapping: Any, visitors: Any
) -> None:
    plane, before = trial.plane, mapping(trial.plane)
    with visitors(plane.gateway_port) as load:
        plane.eventually(lambda: load.sent > 100)
        trial.kill_until(lambda: not trial.in_force({"films-v1": 50, "films-v2": 50}, "user"), "router-0", "router-1")
        plane.eventually(lambda: trial.in_force({"films-v1": 50, "films-v2": 50}, "user"))
    assert load.codes == {200: load.sent}
    plane.eventually(lambda: mapping(plane) == before)


def test_changing_between_users_and_requests_under_load_loses_no_request(trial: Any, visitors: Any) -> None:
    plane, half = trial.plane, {"films-v1": 50, "films-v2": 50}
    with visitors(plane.gateway_port) as load:
        # With one version there is nobody to tell apart: requests take the short way.
        for weights, asked, in_force in (
            (half, "request", "request"),
            (half, "user", "user"),
            ({"films-v1": 100, "films-v2": 0}, "user", "request"),
        ):
            trial.set(weights, asked, in_force)
            sent = load.sent
            plane.eventually(lambda sent=sent: load.sent > sent + 300)
        plane.eventually(lambda: "router-0" not in plane.observed.services)
        # And back while the processes that tell users apart are just being stopped.
        for _ in range(3):
            trial.set(half, "user")
            trial.local.carry_out(SetWeights(half, assignment="request"), trial.arms)
            plane.eventually(lambda: not any(name == "router-0" and it.ready for name, it in services(plane)))
        trial.set(half, "user")
    assert load.codes == {200: load.sent}


def services(plane: Any) -> Any:
    """Returns the plane's services by name."""
    return plane.observed.services.items()


def requests_counted(trial: Any, visitors: Any, total: int) -> dict[str, int]:
    """Asks for that many users; returns the requests that a rollout reads for each arm meanwhile."""
    targets = [ArmTarget(arm=name, version=arm.version) for name, arm in trial.arms.items()]
    queries = queries_for((), targets, "films")
    reader = CounterReader(trial.plane.observed.endpoints["prometheus"])
    snapshot = Snapshot()
    sums: Counter[str] = Counter()

    def read() -> float:
        """Adds what was counted since the last reading; returns the time of the newest scrape."""
        nonlocal snapshot
        reading = reader.read(queries, snapshot, time.time())
        snapshot = reading.snapshot
        sums.update({count.arm: round(count.total) for count in reading.counts if count.guardrail == ASSIGNMENT})
        return reading.newest or 0.0

    # The gateway has counted what went before; the next whole scrape of it is what the count begins from.
    before = time.time()
    trial.plane.eventually(lambda: read() > before + 1.0)
    sums.clear()
    with visitors(trial.plane.gateway_port, total=total, users=total) as load:
        load.finish()
    assert load.codes == {200: total}
    trial.plane.eventually(lambda: bool(read()) and sums.total() >= total)
    reader.close()
    return dict(sums)


def evidence(counted: dict[str, int]) -> float:
    """Returns the log evidence that users were not split half and half, as the rollout judges it."""
    shifts = shift_grid(0.1)
    log_likelihoods = log_split_likelihoods(counted["films-v2"], sum(counted.values()), 50, shifts)
    return float(log_evidence_of_mismatch(log_likelihoods, shifts, 0.1))
