"""The plane's files: desired state, ports, logs, and the configuration of gateway and Prometheus."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from slipway.contracts.errors import ArtifactError
from slipway.serving.local.arms import desired_at_start
from slipway.serving.local.desired import Arm, Desired, arm_name, read_desired, update_desired, write_desired
from slipway.serving.local.gateway import PREDICTION_SERVICE, ArmRoute, routes_configuration
from slipway.serving.local.logs import follow, last_lines, rotate
from slipway.serving.local.observed import Observed, read_observed, write_observed
from slipway.serving.local.ports import PortBook
from slipway.serving.local.scraping import ScrapeTarget, write_targets


def arm(version: str) -> Arm:
    return Arm(name=arm_name("films", version), model="films", version=version, bundle=Path("/bundle"))


def test_desired_state_is_read_as_it_was_written_and_empty_when_there_is_none(tmp_path: Path) -> None:
    assert read_desired(tmp_path) == Desired()
    desired = Desired(arms=(arm("1"), arm("2")), weights={"films-v1": 95, "films-v2": 5})
    write_desired(tmp_path, desired)
    assert read_desired(tmp_path) == desired
    assert desired.without_arm("films-v2") == Desired(arms=(arm("1"),), weights={"films-v1": 95})
    assert desired.without_arm("films-v9") == desired


def test_a_desired_state_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="weights name arms that are not listed"):
        Desired(arms=(arm("1"),), weights={"films-v2": 5})
    with pytest.raises(ValidationError, match="different names"):
        Desired(arms=(arm("1"), arm("1")))
    (tmp_path / ".slipway" / "serving").mkdir(parents=True)
    (tmp_path / ".slipway" / "serving" / "desired.json").write_text("{")
    with pytest.raises(ArtifactError, match="Remove the file"):
        read_desired(tmp_path)


def test_changes_of_several_writers_are_all_kept(tmp_path: Path) -> None:
    def add(first: int) -> None:
        for number in range(first, first + 10):
            update_desired(tmp_path, lambda desired, number=number: desired.with_arm(arm(str(number))))

    threads = [threading.Thread(target=add, args=(first,)) for first in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.version for one in read_desired(tmp_path).arms} == {str(number) for number in range(30)}


def test_a_plane_starts_with_the_champion_unless_a_rollout_was_under_way() -> None:
    assert desired_at_start(Desired(), None) == Desired()
    assert desired_at_start(Desired(), arm("1")).weights == {"films-v1": 100}
    stale = Desired(arms=(arm("1"),), weights={"films-v1": 100})
    assert desired_at_start(stale, arm("2")) == Desired(arms=(arm("2"),), weights={"films-v2": 100})
    under_way = Desired(arms=(arm("1"), arm("2")), weights={"films-v1": 75, "films-v2": 25})
    assert desired_at_start(under_way, arm("1")) == under_way


def test_an_observed_state_that_cannot_be_read_is_never_fresh(tmp_path: Path) -> None:
    assert not read_observed(tmp_path).is_fresh()
    write_observed(tmp_path, Observed(updated_at=100.0))
    assert read_observed(tmp_path).is_fresh(now=104.0)
    assert not read_observed(tmp_path).is_fresh(now=106.0)
    (tmp_path / ".slipway" / "serving" / "observed.json").write_text("not json")
    assert not read_observed(tmp_path).is_fresh()


def test_ports_stay_the_same_until_a_stranger_takes_them(tmp_path: Path) -> None:
    taken: set[int] = {8080}

    def book() -> PortBook:
        preferred = {"gateway": 8080}
        return PortBook(
            tmp_path / "ports.json", fixed={"redis": 6379}, preferred=preferred, free=lambda p: p not in taken
        )

    first = book()
    assert first.claim("redis") == 6379
    assert first.claim("gateway") == 8081
    predictor = first.claim("films-v1-0/http")
    assert first.claim("films-v1-1/http") != predictor
    again = book()
    taken.update({8081, predictor})
    assert again.claim("films-v1-0/http", in_use=True) == predictor
    assert again.claim("films-v1-0/http") != predictor
    assert again.claim("gateway") == 8082
    again.release("films-v1-")
    taken.clear()
    assert book().claim("gateway") == 8082


def test_logs_are_rotated_in_place_and_read_from_their_end(tmp_path: Path) -> None:
    log = tmp_path / "redis.log"
    with log.open("ab") as writer:
        for number in range(1000):
            writer.write(f"line {number}\n".encode())
        writer.flush()
        assert last_lines(log, 3) == ["line 997", "line 998", "line 999"]
        assert not rotate(log, maximum_bytes=1_000_000, backups=2)
        assert rotate(log, maximum_bytes=1_000, backups=2)
        writer.write(b"after\n")  # the writer goes on with the file that it holds
        writer.flush()
        assert log.read_text() == "after\n"
        assert last_lines(tmp_path / "redis.log.1", 1) == ["line 999"]
        for _ in range(3):
            writer.write(b"x" * 2_000)
            writer.flush()
            rotate(log, maximum_bytes=1_000, backups=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["redis.log", "redis.log.1", "redis.log.2"]
    assert last_lines(tmp_path / "absent.log", 5) == []


def test_following_a_log_yields_whole_lines_and_survives_rotation(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    log.write_text("old\n")
    steps = iter(["first\nsec", "ond\n", None, "third\n"])
    seen: list[str] = []

    def stop() -> bool:
        step = next(steps, "end")
        if step == "end":
            return True
        if step is None:
            log.write_text("")
        else:
            with log.open("a") as writer:
                writer.write(step)
        return False

    for _, line in follow([log], stop=stop, poll_seconds=0.0):
        seen.append(line)
    assert seen == ["first", "second", "third"]


def test_an_arm_that_leaves_keeps_its_service_but_no_share() -> None:
    routes = [ArmRoute("films-v1", 100, ("http://127.0.0.1:1",)), ArmRoute("films-v2", None, ())]
    configuration = routes_configuration(routes, collector_url=None, maximum_body=1024)
    services = configuration["http"]["services"]
    assert services[PREDICTION_SERVICE]["weighted"]["services"] == [{"name": "films-v1", "weight": 100}]
    assert services["films-v2"]["loadBalancer"]["servers"] == []
    # Without a check on every child Traefik refuses the health check of the split, and dead processes keep traffic.
    assert all("healthCheck" in services[name]["loadBalancer"] for name in ("films-v1", "films-v2"))
    assert "feedback" not in configuration["http"]["routers"]


def test_scrape_targets_are_written_only_when_they_change(tmp_path: Path) -> None:
    target = ScrapeTarget("predictors", "127.0.0.1:1", (("arm", "films-v1"),))
    assert write_targets(tmp_path, [target])
    assert not write_targets(tmp_path, [target])
    assert write_targets(tmp_path, [])
    assert json.loads((tmp_path / "predictors.json").read_text()) == []
