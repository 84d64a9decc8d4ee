"""Reverts are proposed beside the operator's own work: once, again after an outage, and never in its way."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from git_forge import ADDRESS, candidate

from slipway.contracts.errors import ServiceError
from slipway.serving.promotion.from_cluster import propose_revert
from slipway.serving.promotion.keeper import ROLLED_BACK, GitKeeper
from slipway.serving.rollout.core.types import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from git_forge import Forge


class Told:
    """What people were told; waited for, not slept for."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._more = threading.Condition()

    def __call__(self, name: str, text: str) -> None:
        with self._more:
            self.texts.append(f"{name}: {text}")
            self._more.notify_all()

    def wait(self, count: int) -> list[str]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.texts) >= count, timeout=60)
        return self.texts


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def keeper_of(told: Told) -> Iterator[Callable[..., GitKeeper]]:
    keepers: list[GitKeeper] = []

    def make(propose: Callable[..., Any]) -> GitKeeper:
        keepers.append(GitKeeper(propose, told, pause=0.01))
        return keepers[-1]

    yield make
    for keeper in keepers:
        keeper.close()


@pytest.fixture
def rollout(github: Forge) -> dict[str, Any]:
    for number in (1, 2):
        github.merge(str(github.promoter().promote(candidate(number), "staging").branch))
    document: dict[str, Any] = yaml.safe_load(github.read("staging/rollout.yaml"))
    document["metadata"] |= {"namespace": "staging", "uid": "u-1", "generation": 2}
    return document | {"status": {"phase": ROLLED_BACK, "stable": "films-v1", "reason": "clicks fell"}}


def proposing(forge: Forge) -> Callable[..., Any]:
    settings = {"host": "github", "api": forge.host.address, "variables": {"SLIPWAY_GIT_TOKEN": "token-of-ada"}}
    return functools.partial(propose_revert, repository=ADDRESS["github"], **settings)


def test_the_phase_is_the_one_of_the_core() -> None:
    assert Phase.ROLLED_BACK.value == ROLLED_BACK


def test_a_rollout_that_went_back_is_proposed_once_and_found_by_the_operator_that_takes_over(
    github: Forge, rollout: dict[str, Any], keeper_of: Callable[..., GitKeeper], told: Told
) -> None:
    keeper = keeper_of(proposing(github))
    assert keeper.look(rollout)
    assert not keeper.look(rollout)
    assert "staging/films: the pull request that brings Git back to version 1 was opened: http" in told.wait(1)[0]
    assert "Reason: clicks fell" in github.host.requests[-1].body
    other = keeper_of(proposing(github))
    assert other.look(rollout)
    assert "is open: http" in told.wait(2)[1]
    assert len([request for request in github.host.requests if request.state == "open"]) == 1


def test_an_outage_of_the_host_is_waited_for(
    github: Forge, rollout: dict[str, Any], keeper_of: Callable[..., GitKeeper], told: Told
) -> None:
    github.host.faults["GET"] += [503] * 9  # each attempt asks three times
    assert keeper_of(proposing(github)).look(rollout)
    assert "was opened" in told.wait(1)[0]


def test_a_refusal_is_told_and_does_not_end_the_thread(
    github: Forge, rollout: dict[str, Any], keeper_of: Callable[..., GitKeeper], told: Told
) -> None:
    keeper = keeper_of(proposing(github))
    unknown = rollout | {"status": {"phase": ROLLED_BACK, "stable": "films-v9"}}
    assert keeper.look(unknown)
    assert "Git still names the version that went back: films-v9 serves" in told.wait(1)[0]
    rollout["metadata"] = rollout["metadata"] | {"generation": 3}
    assert keeper.look(rollout)
    assert "was opened" in told.wait(2)[1]


def test_what_did_not_go_back_or_is_back_already_is_left_alone(keeper_of: Callable[..., GitKeeper]) -> None:
    def never(*arguments: Any, **options: Any) -> Any:
        raise ServiceError("nobody should ask")

    keeper = keeper_of(never)
    base: dict[str, Any] = {
        "metadata": {"name": "films", "namespace": "staging", "uid": "u-1", "generation": 1},
        "spec": {"model": {"version": "2"}},
    }
    for status in (
        None,
        {"phase": "Promoted", "stable": "films-v2"},
        {"phase": ROLLED_BACK, "stable": "films-v2"},
        {"phase": ROLLED_BACK},
    ):
        assert not keeper.look(base | {"status": status})
