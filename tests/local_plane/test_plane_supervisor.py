"""Supervision with real servers: crashes, lost supervisors, two planes at once, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slipway.contracts.errors import EnvironmentProblemError, LockHeldError, ServiceError
from slipway.serving.local import control
from slipway.serving.local.records import start_time

pytestmark = pytest.mark.integration


def lose_supervisor(plane: Any) -> None:
    pid = control.running_supervisor(plane.directory)
    os.kill(pid, signal.SIGKILL)
    plane.eventually(lambda: start_time(pid) is None)


def test_a_second_supervisor_is_told_who_holds_the_plane_and_down_leaves_nothing(plane: Any) -> None:
    plane.desire([plane.arm("1")], {"films-v1": 100})
    plane.up()
    before = plane.pids()
    assert control.start(plane.settings()) is False
    second = subprocess.run(
        [sys.executable, "-m", "slipway.serving.local", "--project", str(plane.directory)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert second.returncode == 1
    assert "locked by the supervisor of 'films' (process" in second.stderr
    assert "Traceback" not in second.stderr
    assert plane.pids() == before
    assert set(control.stop(plane.directory)) == set(before)
    assert plane.left_over() == []
    assert control.stop(plane.directory) == []
    assert list((plane.directory / ".slipway/serving/processes").glob("*.json")) == []
    assert "films-v1-0: stopped" in (plane.directory / ".slipway/serving/logs/supervisor.log").read_text()


def test_children_of_a_killed_supervisor_go_on_serving_and_are_taken_over(plane: Any) -> None:
    plane.desire([plane.arm("1")], {"films-v1": 100})
    plane.up()
    before, port = plane.pids(), plane.gateway_port
    lose_supervisor(plane)
    with plane.load(300) as load:
        plane.up()
    assert load.codes == {200: 300}
    assert plane.pids() == before
    assert plane.gateway_port == port
    # The taken-over processes are watched like children: one that dies comes again.
    os.kill(before["films-v1-0"], signal.SIGKILL)
    plane.eventually(lambda: plane.pids()["films-v1-0"] not in (None, before["films-v1-0"]))


def test_a_lost_supervisors_arms_that_are_no_longer_wanted_are_stopped(plane: Any) -> None:
    plane.desire([plane.arm("1"), plane.arm("2")], {"films-v1": 100})
    plane.up()
    plane.eventually(lambda: plane.observed.arms["films-v2"].ready == 2)
    unwanted = {replica.pid for replica in plane.observed.arms["films-v2"].replicas}
    lose_supervisor(plane)
    plane.desire([plane.arm("1")], {"films-v1": 100})
    plane.up()
    assert set(plane.observed.arms) == {"films-v1"}
    assert not unwanted & set(plane.left_over())


def test_down_stops_what_a_killed_supervisor_left_even_without_records(plane: Any) -> None:
    plane.desire([plane.arm("1")], {"films-v1": 100})
    plane.up()
    lose_supervisor(plane)
    for record in (plane.directory / ".slipway/serving/processes").glob("*.json"):
        record.unlink()
    assert len(plane.left_over()) == 5
    assert control.stop(plane.directory)
    assert plane.left_over() == []


def test_a_predictor_that_keeps_dying_is_told_as_a_crash_loop_and_does_not_disturb_the_others(plane: Any) -> None:
    broken = plane.arm("2", replicas=1, environment={"STANDIN_EXIT_AFTER": "0"})
    plane.desire([plane.arm("1"), broken], {"films-v1": 100})
    plane.up()
    status = plane.eventually(lambda: plane.observed.arms["films-v2"].crash_looping and plane.observed.arms["films-v2"])
    assert status.restarts >= 4
    assert status.last_exit == 7
    assert status.ready == 0
    assert plane.ask()[0] == 200


def test_the_servers_around_the_predictors_come_again_on_the_same_ports(plane: Any) -> None:
    plane.desire([plane.arm("1")], {"films-v1": 100})
    plane.up()
    before, endpoints = plane.pids(), plane.observed.endpoints
    for name in ("redis", "prometheus", "gateway"):
        os.kill(before[name], signal.SIGKILL)

    def back() -> bool:
        services = plane.observed.services
        return all(services[name].ready and services[name].pid != before[name] for name in services)

    plane.eventually(back)
    assert plane.observed.endpoints == endpoints
    plane.eventually(lambda: plane.ask()[0] == 200)


def test_an_unreadable_desired_state_leaves_what_serves_alone(plane: Any) -> None:
    plane.desire([plane.arm("1", replicas=1)], {"films-v1": 100})
    plane.up()
    before = plane.pids()
    log = plane.directory / ".slipway/serving/logs/supervisor.log"
    (plane.directory / ".slipway/serving/desired.json").write_text('{"arms": [')
    plane.eventually(lambda: "desired state refused" in log.read_text())
    assert plane.pids() == before
    assert plane.ask()[0] == 200


def test_two_projects_run_side_by_side(plane: Any, tmp_path: Path) -> None:
    other = type(plane)(tmp_path / "other")
    other.directory.mkdir()
    try:
        for one, version in ((plane, "1"), (other, "7")):
            one.desire([one.arm(version, replicas=1)], {f"films-v{version}": 100})
            control.start(one.settings())
        for one in (plane, other):
            control.wait_until_ready(one.directory, seconds=60)
        assert plane.gateway_port != other.gateway_port
        assert plane.ask()[1]["version"] == "1"
        assert other.ask()[1]["version"] == "7"
        control.stop(plane.directory)
        assert other.ask()[1]["version"] == "7"
    finally:
        control.stop(other.directory)
    assert other.left_over() == []


def test_a_port_that_the_user_set_and_that_is_in_use_is_refused_with_its_holder(plane: Any) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(EnvironmentProblemError) as refused:
            control.start(plane.settings(ports={"gateway": port}))
    assert f"port {port}, wanted for gateway, is in use by " in str(refused.value)
    assert f"(process {os.getpid()})" in str(refused.value)
    assert not control.is_running(plane.directory)


def test_a_plane_that_does_not_become_ready_says_which_process_and_why(plane: Any) -> None:
    plane.desire([plane.arm("1", replicas=1)], {"films-v1": 100})
    command = (sys.executable, "-c", "print('no such bundle'); raise SystemExit(3)")
    control.start(plane.settings(predictor_command=command))
    with pytest.raises(ServiceError) as failed:
        control.wait_until_ready(plane.directory, seconds=4)
    assert "films-v1 (0 of 1 ready): no such bundle" in str(failed.value)


def test_two_commands_on_one_plane_at_once_are_kept_apart(plane: Any) -> None:
    down = control.command_lock(plane.directory, "slipway down")
    refused = pytest.raises(LockHeldError, match="locked by slipway up")
    with control.command_lock(plane.directory, "slipway up"), refused, down:
        pass
