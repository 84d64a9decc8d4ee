"""The plane's files: desired state, ports, logs, and the configuration of gateway and Prometheus."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from slipway.contracts.errors import ArtifactError
from slipway.serving.local import applied
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


def test_copies_and_who_is_drawn_are_kept_until_they_are_set_anew() -> None:
    desired = Desired(
        arms=(arm("1"), arm("2")),
        weights={"films-v1": 50, "films-v2": 50},
        mirrors={"films-v2": 10},
        assignment="user",
        experiment=("films-v1", "films-v2"),
    )
    grown = desired.with_arm(arm("3"))
    assert (grown.mirrors, grown.assignment, grown.experiment) == ({"films-v2": 10}, "user", ("films-v1", "films-v2"))
    assert grown.without_arm("films-v2").mirrors == {}
    assert desired.draws_users
    alone = desired.with_weights({"films-v1": 100, "films-v2": 0})
    assert (alone.mirrors, alone.assignment, alone.draws_users) == ({}, "user", False)
    assert not desired.with_weights(desired.weights, assignment="request").draws_users
    with pytest.raises(ValidationError, match="mirrors name arms that are not listed"):
        Desired(arms=(arm("1"),), mirrors={"films-v2": 5})


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


def test_copies_go_to_arms_that_can_take_them_and_are_stamped_and_bounded() -> None:
    routes = [
        ArmRoute("films-v1", 100, ("http://127.0.0.1:1",)),
        ArmRoute("films-v2", 0, ("http://127.0.0.1:2",), mirror=30),
        ArmRoute("films-v3", None, (), mirror=30),
    ]
    http = routes_configuration(routes, collector_url=None, maximum_body=1024)["http"]
    public = http["routers"]["prediction"]
    assert http["services"][public["service"]]["mirroring"] == {
        "service": PREDICTION_SERVICE,
        "mirrors": [{"name": "films-v2-mirror", "percent": 30}],
    }
    assert public["observability"]["tracing"]
    assert http["services"]["films-v2-mirror"]["middlewares"] == ["shadow", "shadow-limit"]
    plain = routes_configuration(routes[:1], collector_url=None, maximum_body=1024)["http"]
    assert plain["routers"]["prediction"]["service"] == PREDICTION_SERVICE
    assert not plain["routers"]["prediction"]["observability"]["tracing"]


def test_where_users_are_drawn_each_arm_has_its_own_way_and_one_that_is_gone_leads_to_the_others() -> None:
    routes = [ArmRoute("films-v1", 50, ("http://127.0.0.1:1",)), ArmRoute("films-v2", None, ())]
    drawn = routes_configuration(routes, collector_url=None, maximum_body=1024, assignment_urls=["http://127.0.0.1:9"])
    routers, services = drawn["http"]["routers"], drawn["http"]["services"]
    entrance = services[routers["prediction"]["service"]]["failover"]
    assert services[entrance["service"]]["loadBalancer"]["servers"] == [{"url": "http://127.0.0.1:9"}]
    assert services[routers["films-v1-assigned"]["service"]]["failover"]["service"] == "films-v1"
    assert routers["films-v2-assigned"]["service"] == PREDICTION_SERVICE
    # The processes may still send something when the public route has left them.
    leaving = routes_configuration(routes, collector_url=None, maximum_body=1024, assigned=True)["http"]["routers"]
    assert leaving["prediction"]["service"] == PREDICTION_SERVICE
    assert "films-v1-assigned" in leaving


@pytest.mark.parametrize("second", [{"films-v1": 50, "films-v2": 50}, {"films-v1": 80, "films-v2": 20}, None])
def test_weights_of_users_are_known_only_where_every_process_says_the_same(
    monkeypatch: pytest.MonkeyPatch, second: dict[str, int] | None
) -> None:
    first = {"films-v1": 50, "films-v2": 50}
    urls = ["http://127.0.0.1:8", "http://127.0.0.1:9"]
    routes = [ArmRoute("films-v1", 50, ("http://127.0.0.1:1",)), ArmRoute("films-v2", 50, ("http://127.0.0.1:2",))]
    routes.append(ArmRoute("films-v3", 0, ("http://127.0.0.1:3",), mirror=10))
    http = routes_configuration(routes, collector_url=None, maximum_body=1024, assignment_urls=urls)["http"]
    raw = {kind: {f"{name}@file": entry for name, entry in http[kind].items()} for kind in ("routers", "services")}
    answers = {
        "http://127.0.0.1:7/api/rawdata": raw,
        f"{urls[0]}/-/assignment": {"arms": first},
        f"{urls[1]}/-/assignment": None if second is None else {"arms": second},
    }
    monkeypatch.setattr(applied, "get_json", lambda url, **_: answers[url])
    found = applied.applied_routes("http://127.0.0.1:7")
    assert found is not None
    assert (found.assignment, found.weights) == ("user", first if second == first else {})
    assert found.mirrors == {"films-v3": 10}


def test_scrape_targets_are_written_only_when_they_change(tmp_path: Path) -> None:
    target = ScrapeTarget("predictors", "127.0.0.1:1", (("arm", "films-v1"),))
    assert write_targets(tmp_path, [target])
    assert not write_targets(tmp_path, [target])
    assert write_targets(tmp_path, [])
    assert json.loads((tmp_path / "predictors.json").read_text()) == []
