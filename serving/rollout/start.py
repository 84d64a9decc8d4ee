"""From "roll this version out" to a rollout that a controller can take up, or a refusal that says why."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from slipway.contracts.bundle import bundle_digest, read_bundle
from slipway.contracts.errors import RolloutError, ServiceError, UsageError
from slipway.contracts.project import Project
from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, Guardrail, RolloutSpec
from slipway.models.registry import CHALLENGER, CHAMPION, ModelVersion, Registry, registry_for
from slipway.serving.local.arms import arm_for
from slipway.serving.local.desired import Arm, arm_name, read_desired
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.local.observed import Observed, read_observed
from slipway.serving.rollout.core.planner import Plan, plan
from slipway.serving.rollout.queries import queries_for
from slipway.serving.rollout.readings import CounterReader, Reading, Snapshot
from slipway.serving.rollout.store import RolloutFolder, RolloutStore, new_rollout_id

TRAFFIC_SECONDS = 10.0
"""How far back the traffic is measured for the plan."""
USER_SECONDS = (3600.0, 600.0, 60.0)
"""How far back users are counted for it, as far as there are readings."""


@dataclass(frozen=True)
class Prepared:
    """A rollout that may start: its spec, how to run its arms, and where the plane is."""

    spec: RolloutSpec
    arms: dict[str, Arm]
    observed: Observed
    store: RolloutStore


@dataclass(frozen=True)
class Traffic:
    """What stable gets now: requests a second, and its rate of events per guardrail (None where there is no data).

    `means` are mean and standard deviation of values, scaled to [0, 1], per guardrail of kind mean. `users_per_second`
    are users not seen before, over the longest time for which there are readings, an hour at most; None where that is
    not known. A rollout counts users anew, so that at first more will come.
    """

    requests_per_second: float
    rates: dict[str, float | None]
    means: dict[str, tuple[float, float]] = field(default_factory=dict)
    users_per_second: float | None = None


def prepare(project: Project, versions: Sequence[str], *, retry: bool = False) -> Prepared:
    """Finds candidates and stable, checks the candidates' bundles, and refuses what must not start.

    Args:
        project: The project; its rollout policy and its serving part, overrides applied, are the candidate's.
        versions: Each `MODEL/VERSION`, `MODEL@ALIAS`, a version or an alias; none is the challenger.
        retry: Accept a version that went back.

    Raises:
        UsageError: There is no such version.
        BundleError: The candidate's bundle is not sound.
        RolloutError: It serves already, it went back before, or another rollout is under way and the policy refuses.
        ServiceError: The plane does not run.
    """
    observed = read_observed(project.directory)
    if not observed.is_fresh():
        raise ServiceError("the serving plane is down", where=str(project.directory), remedy="Start it: slipway up")
    registry = registry_for(project.directory, project.tracking.uri)
    candidates = [
        registry.with_bundle(find_version(registry, project.name, version)) for version in versions or (None,)
    ]
    store = RolloutStore(PlaneLayout(project.directory).rollouts)
    champion = registry.find(project.name, CHAMPION)
    champion = None if champion is None else registry.with_bundle(champion)
    arms = {}
    for candidate in candidates:
        read_bundle(candidate.bundle_dir)
        _refuse(project, store, candidate, champion, retry=retry)
        arm = arm_for(project, candidate)
        arms[arm.name] = arm
    _refuse_several(project, candidates, champion)
    first = next(iter(arms))
    stable = None
    if champion is not None:
        name = arm_name(champion.name, champion.version)
        arms[name] = read_desired(project.directory).arm(name) or arm_for(project, champion)
        stable = _target(champion)
    spec = RolloutSpec(
        id=new_rollout_id(first),
        model=project.name,
        candidates=tuple(_target(candidate) for candidate in candidates),
        stable=stable,
        known_good=_known_good(project, registry),
        policy=project.rollout,
    )
    return Prepared(spec, arms, observed, store)


def create_rollout(prepared: Prepared) -> RolloutFolder:
    """Hands the rollout to the controller."""
    return prepared.store.create(prepared.spec, prepared.arms)


def measure_traffic(prepared: Prepared) -> Traffic | None:
    """Returns the traffic of the last seconds; None when there is no stable version, or nothing was scraped.

    Raises:
        ServiceError: Prometheus does not answer.
    """
    spec = prepared.spec
    url = prepared.observed.endpoints.get("prometheus")
    if spec.stable is None or url is None:
        return None
    reader = CounterReader(url, lookback=10.0)
    try:
        queries = queries_for(spec.policy.guardrails, (spec.stable,), spec.model)
        now = time.time()
        earlier = reader.read(queries, Snapshot(), now - TRAFFIC_SECONDS)
        latest = reader.read(queries, earlier.snapshot, now)
        if latest.newest is None or earlier.newest is None or latest.newest <= earlier.newest:
            return None
        traffic = _traffic(latest, latest.newest - earlier.newest)
        of_users = [guardrail for guardrail in spec.policy.guardrails if guardrail.unit == "user"]
        return traffic if not of_users else _with_users(traffic, reader, of_users, spec, now)
    finally:
        reader.close()


def _with_users(
    traffic: Traffic, reader: CounterReader, guardrails: list[Guardrail], spec: RolloutSpec, now: float
) -> Traffic:
    """Returns the traffic with what guardrails that count users have seen, which takes longer to measure."""
    assert spec.stable is not None
    queries = queries_for(guardrails, (spec.stable,), spec.model, "user")
    for seconds in USER_SECONDS:
        earlier = reader.read(queries, Snapshot(), now - seconds)
        if earlier.newest is None:
            continue
        seen = _traffic(reader.read(queries, earlier.snapshot, now), seconds)
        return replace(
            traffic,
            rates=traffic.rates | {name: rate for name, rate in seen.rates.items() if name != ASSIGNMENT},
            means=traffic.means | seen.means,
            users_per_second=seen.requests_per_second,
        )
    return traffic


def plan_rollout(prepared: Prepared) -> Plan:
    """Returns what each step needs at the traffic of the last seconds.

    Raises:
        RolloutError: The traffic can never feed the policy, or there is none; says what would feed it.
        ServiceError: Prometheus does not answer.
    """
    traffic = measure_traffic(prepared)
    if traffic is None or traffic.requests_per_second == 0:
        raise RolloutError(
            f"there was no traffic in the last {TRAFFIC_SECONDS:.0f} s, and a rollout is decided by traffic",
            where=prepared.spec.candidates[0].arm,
            remedy="Send requests to the gateway, or start it all the same with --force: it then waits for them.",
        )
    known = {name: rate for name, rate in traffic.rates.items() if rate is not None}
    candidates = len(prepared.spec.candidates)
    return plan(
        prepared.spec.policy,
        known,
        traffic.requests_per_second,
        means=traffic.means,
        users_per_second=traffic.users_per_second,
        candidates=candidates,
    )


def find_version(registry: Registry, model: str, text: str | None) -> ModelVersion:
    """Returns the version that `films/3`, `films@challenger`, `3` or `challenger` names; None is the challenger.

    Raises:
        UsageError: There is no such version.
    """
    if text is None:
        found = registry.find(model, CHALLENGER)
        if found is None:
            raise UsageError("no version has the alias challenger", where=model, remedy="Make one with: slipway run")
        return found
    name, separator, version = text.replace("@", "/").rpartition("/")
    return registry.get(name if separator else model, version)


def _refuse(
    project: Project, store: RolloutStore, candidate: ModelVersion, champion: ModelVersion | None, *, retry: bool
) -> None:
    where = arm_name(candidate.name, candidate.version)
    if champion is not None and champion.version == candidate.version:
        raise RolloutError("this version is the champion: it serves already", where=where)
    back = store.went_back(project.name).get(candidate.sha256)
    if back is not None and not retry:
        raise RolloutError(
            f"this version went back in rollout {back}",
            where=where,
            remedy=f"See why: slipway rollout explain {back}. Try it again all the same: slipway rollout retry {back}",
        )
    running = store.open()
    if running and running[-1].spec.candidates[0].version == candidate.version:
        raise RolloutError(f"rollout {running[-1].id} of this version is under way", where=where)
    if running and project.rollout.on_new_version == "refuse":
        raise RolloutError(
            f"rollout {running[0].id} is under way, and the policy refuses a second one",
            where=where,
            remedy="Wait for its end, or take it back: slipway rollout abort",
        )


def _refuse_several(project: Project, candidates: Sequence[ModelVersion], champion: ModelVersion | None) -> None:
    """Refuses several versions where they cannot be told apart, or have no step to be compared at."""
    count = len(candidates)
    if count == 1:
        return
    where = project.name
    if len({candidate.version for candidate in candidates}) < count:
        raise UsageError("a version is named twice", where=where, remedy="Name each version once.")
    if champion is None:
        raise UsageError(
            "several versions are compared with the one that serves, and none serves yet",
            where=where,
            remedy="Bring one up first: slipway rollout start MODEL/VERSION",
        )
    below = [step.weight for step in project.rollout.steps if step.compares]
    if not below or max(below) * count > 100:
        raise UsageError(
            f"{count} versions at {max(below, default=0)} % each are more than all traffic",
            where=f"{where}: rollout.steps",
            remedy=f"Give the steps below 100 a weight of at most {100 // count}, such as "
            f"--set 'rollout.steps=[{{weight: {min(100 // (count + 1), 50)}}}, {{weight: 100}}]'",
        )


def _known_good(project: Project, registry: Registry) -> ArmTarget | None:
    version = project.rollout.known_good
    return None if version is None else _target(registry.with_bundle(registry.get(project.name, version)))


def _target(version: ModelVersion) -> ArmTarget:
    digest = version.sha256 or bundle_digest(read_bundle(version.bundle_dir))
    name = arm_name(version.name, version.version)
    return ArmTarget(arm=name, version=version.version, digest=digest, bundle=str(version.bundle_dir))


def _traffic(reading: Reading, seconds: float) -> Traffic:
    requests = max((count.total for count in reading.counts), default=0.0)
    rates = {count.guardrail: count.events / count.total if count.total > 0 else None for count in reading.counts}
    means = {}
    for sums in reading.moments:
        if sums.n > 0:
            mean = sums.total / sums.n
            means[sums.guardrail] = mean, math.sqrt(max(0.0, sums.squares / sums.n - mean * mean))
    return Traffic(requests / seconds, rates, means)
