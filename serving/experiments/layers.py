"""Which experiments a user takes part in, and with which arm: layers of mutually exclusive experiments.

A layer is a split of all users into 1,000 buckets of its own. Experiments in one layer own separate ranges of them, so
that no user is in two; different layers split independently, so that a user may be in one experiment of each. What an
experiment changes belongs to one layer only: two experiments that change the same thing never meet.

Tang, Agarwal, O'Brien and Meyer 2010.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.errors import RefusedError, UsageError
from slipway.serving.router.assignment import Assignment, bucket_of, buckets_of, check_name, hash_prefix

LAYER_BUCKETS = 1000
_SHIFT = 64


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Args:
        name: Unique among all experiments.
        layer: The layer in which it runs.
        arms: Percent of its users, by arm; they sum to 100.
        control: The arm that the others are compared with; the first one if not given.
        start: First bucket of the layer that it owns.
        stop: First bucket after them, at most 1,000.
        changes: What its arms change, by any names that experiments share: a parameter, a model, a place on a page.

    Raises:
        UsageError: It cannot be as it is said.
    """

    name: str
    layer: str
    arms: Mapping[str, float]
    control: str | None = None
    start: int = 0
    stop: int = LAYER_BUCKETS
    changes: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        check_name(self.name, "an experiment")
        check_name(self.layer, "a layer")
        if not 0 <= self.start < self.stop <= LAYER_BUCKETS:
            raise UsageError(
                f"the buckets {self.start} to {self.stop} are no range within 0 to {LAYER_BUCKETS}",
                where=f"experiment {self.name}",
            )
        try:
            assignment = Assignment("", self.layer, self.arms, self.control)
        except UsageError as error:
            raise UsageError(error.what, where=f"experiment {self.name}", remedy=error.remedy) from None
        object.__setattr__(self, "control", assignment.stable)

    @property
    def share(self) -> float:
        """The part of all users that takes part."""
        return (self.stop - self.start) / LAYER_BUCKETS


class Layers:
    """Experiments that can run together, and who is in which.

    Args:
        salt: Of the project; another salt splits all users anew.
        experiments: In any order.

    Raises:
        RefusedError: Two experiments conflict; says which, why, and what would fit.
    """

    def __init__(self, salt: str, experiments: Iterable[Experiment] = ()) -> None:
        self.salt = salt
        self.experiments = tuple(experiments)
        _check_names(self.experiments)
        _check_changes(self.experiments)
        self._layers = {
            layer: _Layer(salt, layer, [other for other in self.experiments if other.layer == layer])
            for layer in dict.fromkeys(experiment.layer for experiment in self.experiments)
        }

    def arms_of(self, user: str) -> dict[str, str]:
        """Returns the user's arm by experiment, for the experiments that the user takes part in."""
        found = (layer.arm_of(user) for layer in self._layers.values())
        return dict(pair for pair in found if pair is not None)

    def arms_of_users(self, users: Sequence[str]) -> dict[str, NDArray[np.intp]]:
        """Returns by experiment, for many users, the index of the arm in `arms`, or -1 for no part in it."""
        return {name: arms for layer in self._layers.values() for name, arms in layer.arms_of_users(users)}

    def free(self, layer: str) -> list[tuple[int, int]]:
        """Returns the ranges of buckets of a layer that nobody owns, as (start, stop)."""
        taken = self._layers[layer].ranges if layer in self._layers else []
        edges = [(0, 0), *taken, (LAYER_BUCKETS, LAYER_BUCKETS)]
        return [(before[1], after[0]) for before, after in pairwise(edges) if before[1] < after[0]]

    def with_experiment(self, experiment: Experiment, *, buckets: int | None = None) -> Layers:
        """Returns layers with one more experiment.

        Args:
            experiment: The experiment.
            buckets: Place it in the first gap of so many buckets of its layer, wherever that is.

        Raises:
            RefusedError: It conflicts with one that is there, or no gap is wide enough.
        """
        if buckets is not None:
            experiment = replace(experiment, start=(place := self._gap(experiment, buckets)), stop=place + buckets)
        return Layers(self.salt, (*self.experiments, experiment))

    def without(self, name: str) -> Layers:
        """Returns layers without an experiment; its buckets are free again."""
        return Layers(self.salt, (other for other in self.experiments if other.name != name))

    def _gap(self, experiment: Experiment, buckets: int) -> int:
        gaps = self.free(experiment.layer)
        for start, stop in gaps:
            if stop - start >= buckets:
                return start
        widest = max((stop - start for start, stop in gaps), default=0)
        present = [other for other in self.experiments if other.layer == experiment.layer]
        holders = ", ".join(f"{other.name} ({other.stop - other.start})" for other in present)
        raise RefusedError(
            f"layer {experiment.layer} has no gap of {buckets} buckets; the widest has {widest}",
            where=f"experiment {experiment.name}",
            remedy=f"Take fewer, another layer, or end one of those that hold it: {holders or 'none'}.",
        )


class _Layer:
    """The experiments of one layer, in the order of their buckets."""

    def __init__(self, salt: str, name: str, experiments: list[Experiment]) -> None:
        self._experiments = sorted(experiments, key=lambda experiment: experiment.start)
        for before, after in pairwise(self._experiments):
            if after.start < before.stop:
                raise RefusedError(
                    f"experiments {before.name} (buckets {before.start} to {before.stop}) and {after.name} "
                    f"({after.start} to {after.stop}) would share users",
                    where=f"layer {name}",
                    remedy="Give them separate ranges, or layers of their own if their effects cannot meet.",
                )
        self.ranges = [(experiment.start, experiment.stop) for experiment in self._experiments]
        self._starts = [experiment.start for experiment in self._experiments]
        self._prefix = hash_prefix(salt, name)
        # The split within an experiment is another one than that of the layer: with the same, an experiment that
        # takes over a range of buckets would find the users sorted by the arms of the one before it.
        self._assignments = [
            Assignment(salt, f"{name}/{experiment.name}", experiment.arms, experiment.control)
            for experiment in self._experiments
        ]
        self._whole = self.ranges == [(0, LAYER_BUCKETS)]

    def arm_of(self, user: str) -> tuple[str, str] | None:
        index = 0
        if not self._whole:
            bucket = bucket_of(self._prefix, user) * LAYER_BUCKETS >> _SHIFT
            index = bisect_right(self._starts, bucket) - 1
            if index < 0 or bucket >= self.ranges[index][1]:
                return None
        return self._experiments[index].name, self._assignments[index].arm_of(user)

    def arms_of_users(self, users: Sequence[str]) -> Iterable[tuple[str, NDArray[np.intp]]]:
        # As in `arm_of`, without an overflow: 64 bits times 1,000 do not fit into 64 bits, the halves do.
        buckets = buckets_of(self._prefix, users)
        high, low = buckets >> np.uint64(32), buckets & np.uint64(0xFFFFFFFF)
        factor = np.uint64(LAYER_BUCKETS)
        place = (high * factor + (low * factor >> np.uint64(32))) >> np.uint64(32)
        for experiment, assignment in zip(self._experiments, self._assignments, strict=True):
            inside = np.flatnonzero((place >= experiment.start) & (place < experiment.stop)).tolist()
            arms = np.full(len(users), -1, dtype=np.intp)
            arms[inside] = assignment.arms_of([users[index] for index in inside])
            yield experiment.name, arms


def _check_names(experiments: Sequence[Experiment]) -> None:
    seen: set[str] = set()
    for experiment in experiments:
        if experiment.name in seen:
            raise RefusedError(
                f"there are two experiments named {experiment.name}", remedy="Give one of them another name."
            )
        seen.add(experiment.name)


def _check_changes(experiments: Sequence[Experiment]) -> None:
    owners: dict[str, Experiment] = {}
    for experiment in experiments:
        for change in sorted(experiment.changes):
            owner = owners.setdefault(change, experiment)
            if owner.layer != experiment.layer:
                raise RefusedError(
                    f"experiments {owner.name} (layer {owner.layer}) and {experiment.name} (layer {experiment.layer}) "
                    f"both change {change}, and users may be in both",
                    remedy=f"Put both into one layer: what changes {change} must never meet.",
                )
