"""One day of interactions: who opens a session when, what is shown, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from slipway.datasets.platform.catalogue import Catalogue
from slipway.datasets.platform.population import RINGS, Population
from slipway.datasets.platform.scores import LabelCounts
from slipway.datasets.platform.spec import (
    COUNTRIES,
    DEVICES,
    PLATFORMS,
    BoolArray,
    DoubleArray,
    FloatArray,
    IntArray,
    PlatformSpec,
    sigmoid,
    stream,
)
from slipway.datasets.platform.tables import names, times, write_part

PART_EVENTS = 400_000
CANDIDATES = 4
SESSION_LENGTH = 4
DAY = 86_400_000_000
FRAUD_SESSIONS = 0.02
COMPLETE = 0.8
LABELS = ("skipped", "completed", "liked", "shared", "commented", "bookmarked")

_HOURS = np.array([2, 1, 1, 1, 1, 2, 4, 6, 7, 6, 5, 6, 8, 7, 5, 5, 6, 8, 10, 13, 15, 14, 10, 5], np.float64)
_PLATFORM_OF_DEVICE = np.array([[0.45, 0.5, 0.05, 0], [0, 0, 1, 0], [0.6, 0.35, 0.05, 0], [0, 0, 0, 1.0]])


@dataclass(frozen=True)
class World:
    """The hidden side of a platform, the same in every worker, and the ids of its entities."""

    spec: PlatformSpec
    catalogue: Catalogue
    population: Population
    user_ids: pa.Array
    content_ids: pa.Array


@dataclass
class _Events:
    """Events of one part, one row each."""

    user: IntArray
    content: IntArray
    session: IntArray
    time: IntArray
    device: IntArray
    platform: IntArray
    position: IntArray
    fraud: BoolArray


def write_interactions(world: World, day: int, folder: Path, counts: dict[str, LabelCounts]) -> int:
    """Writes one day of interactions and their true probabilities; returns the number of rows.

    Args:
        world: The platform.
        day: Day from the first one.
        folder: The data set; parts go to interactions/date=... and truth/interactions/date=...
        counts: Where labels are counted by true probability.
    """
    date = f"date={np.datetime64(world.spec.start, 'D') + day}"
    rows = 0
    for part, (first_id, events, random) in enumerate(_parts(world, day)):
        observed, probabilities = _outcomes(world, day, events, random)
        ids = pa.array(first_id + np.arange(len(events.user)))
        columns = {
            "event_id": ids,
            "user_id": world.user_ids.take(pa.array(events.user)),
            "content_id": world.content_ids.take(pa.array(events.content)),
            "timestamp": times(_midnight(world.spec, day) + events.time),
            "session_id": pa.array(first_id + events.session),
            "device": names(DEVICES, events.device),
            "platform": names(PLATFORMS, events.platform),
            "position": pa.array(events.position.astype(np.int16)),
            **observed,
        }
        name = f"part-{part:05d}.parquet"
        rows += write_part(folder / "interactions" / date / name, columns)
        labels = {label: columns[label] if label in columns else observed[label] for label in LABELS}
        for label, values in labels.items():
            counts[label].add(probabilities[label], values.to_numpy(zero_copy_only=False))
        truth = {f"probability_{label}": pa.array(probabilities[label]) for label in LABELS}
        write_part(folder / "truth" / "interactions" / date / name, {"event_id": ids, **truth})
    return rows


def _midnight(spec: PlatformSpec, day: int) -> int:
    return int((np.datetime64(spec.start, "us") + np.timedelta64(day, "D")).astype(np.int64))


def _parts(world: World, day: int) -> Iterator[tuple[int, _Events, np.random.Generator]]:
    per_day = world.spec.events_of_days()
    first_id, number = int(per_day[:day].sum()), int(per_day[day])
    activity = world.population.activity_on(day)
    show = np.cumsum(world.catalogue.weights(day), dtype=np.float64)
    for part, start in enumerate(range(0, number, PART_EVENTS)):
        random = stream(world.spec, "interactions", day, part)
        events = _events(world, day, min(PART_EVENTS, number - start), activity, show, random)
        yield first_id + start, events, random


def _events(
    world: World, day: int, number: int, activity: FloatArray, show: DoubleArray,
    random: np.random.Generator,
) -> _Events:  # fmt: skip
    population = world.population
    sizes = random.geometric(1 / SESSION_LENGTH, size=number // SESSION_LENGTH + 4 * int(number**0.5) + 8)
    ends = np.minimum(np.cumsum(sizes), number)
    sizes = np.diff(ends, prepend=0)
    sizes = sizes[sizes > 0]
    if (missing := number - int(sizes.sum())) > 0:
        sizes = np.append(sizes, missing)
    sessions = len(sizes)
    user = _draw(np.cumsum(activity, dtype=np.float64), random.random(sessions))
    fraud = random.random(sessions) < FRAUD_SESSIONS
    accounts = np.flatnonzero(population.fraudulent & (population.sign_up_day <= day))
    if len(accounts):
        user = np.where(fraud, accounts[random.integers(0, len(accounts), sessions)], user)
    fraud &= len(accounts) > 0
    start = _start_times(population.country[user], random)
    drift = world.spec.drift(day)
    other = random.choice(4, size=sessions, p=[0.55, 0.25, 0.08, 0.12])
    device = np.where(random.random(sessions) < 0.7, population.device[user], other)
    device = np.where(random.random(sessions) < 0.35 * drift, 0, device)
    steps = np.cumsum(_PLATFORM_OF_DEVICE, axis=1)[device]
    platform = np.minimum((random.random(sessions)[:, None] >= steps).sum(axis=1), 3)
    session = np.repeat(np.arange(sessions), sizes)
    within = np.arange(number) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    gap = (random.exponential(180e6, number) + 5e6).astype(np.int64)
    elapsed = np.cumsum(gap)
    elapsed -= np.repeat(elapsed[np.cumsum(sizes) - sizes], sizes)
    room = np.repeat(DAY - 1_000_000 - start, sizes)
    # A session ends with its day: late ones are pressed together, one microsecond apart at least.
    longest = np.repeat(elapsed[np.cumsum(sizes) - 1], sizes)
    squeeze = np.minimum(1.0, room / np.maximum(longest, 1))
    time = np.repeat(start, sizes) + (elapsed * squeeze).astype(np.int64) + within
    content = _choose(world, drift, user[session], show, random)
    if fraud.any():
        targets = _ring_targets(world)
        pick = targets[population.ring[user[session]], random.integers(0, targets.shape[1], number)]
        content = np.where(fraud[session], pick, content)
    order = np.argsort(time, kind="stable")
    position = np.minimum(within + random.geometric(0.35, number), 50)
    row = session[order]
    return _Events(user[row], content[order], row, time[order], device[row], platform[row], position[order], fraud[row])


def _draw(cumulative: DoubleArray, uniform: DoubleArray) -> IntArray:
    """Returns for each uniform number the row that it falls on, in proportion to the weights summed up."""
    rows: IntArray = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
    return np.minimum(rows, len(cumulative) - 1)


def _start_times(country: IntArray, random: np.random.Generator) -> IntArray:
    """Returns microseconds since midnight UTC, by the rhythm of the user's own day."""
    hour = _draw(np.cumsum(_HOURS), random.random(len(country)))
    ahead = np.array([row[2] for row in COUNTRIES])[country]
    local = (hour + random.random(len(country))) * 3_600_000_000
    universal: IntArray = (local.astype(np.int64) - ahead * 3_600_000_000) % DAY
    return np.minimum(universal, DAY - 60_000_000)


def _choose(
    world: World, drift: float, user: IntArray, show: DoubleArray,
    random: np.random.Generator,
) -> IntArray:  # fmt: skip
    """Chooses a genre by taste, then the best for the user of a few pieces drawn from it."""
    catalogue = world.catalogue
    edges = np.concatenate([[0.0], show])[catalogue.genre_start]
    mass = np.diff(edges)
    logits = world.population.genre_logits[user] + np.log(np.maximum(mass, 1e-9) / mass.sum()).astype(np.float32) * 0.5
    logits[:, :2] += np.float32(1.2 * drift)
    logits[:, 2] -= np.float32(1.5 * drift)
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    steps = np.cumsum(weight, axis=1)
    genre = np.minimum((random.random((len(user), 1)) * steps[:, -1:] >= steps).sum(axis=1), len(mass) - 1)
    best = np.zeros(len(user), np.int64)
    best_score = np.full(len(user), -np.inf, np.float32)
    for _ in range(CANDIDATES):
        point = edges[genre] + random.random(len(user)) * mass[genre]
        candidate = np.minimum(np.searchsorted(show, point, side="right"), catalogue.genre_start[genre + 1] - 1)
        score = affinity(world, user, candidate) + random.gumbel(size=len(user)).astype(np.float32)
        better = score > best_score
        best, best_score = np.where(better, candidate, best), np.where(better, score, best_score)
    return best


def affinity(world: World, user: IntArray, content: IntArray) -> FloatArray:
    """Returns how much each user likes each piece: near standard normal over random pairs."""
    population, catalogue = world.population, world.catalogue
    taste = np.einsum("ij,ij->i", population.latent[user], catalogue.latent[content])
    foreign = (population.language[user] != catalogue.language[content]) & (catalogue.language[content] != 0)
    scaled = (taste - population.affinity_mean) / population.affinity_scale
    liking: FloatArray = (scaled + catalogue.quality[content] - 0.8 * foreign).astype(np.float32)
    return liking


def _ring_targets(world: World) -> IntArray:
    """Returns the pieces that each ring pushes: all by one little-known creator each, [rings, 20]."""
    upload = np.where(world.catalogue.upload_day < 0, 0, 1)
    order = np.lexsort((world.catalogue.creator, upload))
    old = order[: max(int((upload == 0).sum()), RINGS)]
    unknown = old[::-1][: RINGS * 20]
    return np.resize(unknown, (RINGS, 20))


def _outcomes(
    world: World, day: int, events: _Events, random: np.random.Generator
) -> tuple[dict[str, pa.Array], dict[str, FloatArray]]:
    """Returns the observed columns and the probability that each label had before the event."""
    number = len(events.user)
    liking = affinity(world, events.user, events.content)
    age = world.population.age[events.user]
    kind = world.catalogue.kind[events.content]
    seconds = world.catalogue.seconds[events.content]
    fraud = events.fraud
    skip = sigmoid(-1.0 - 0.9 * liking + 0.04 * events.position + 0.6 * ((kind == 1) & (events.device == 3)))
    stay = np.where(fraud, 1.0, 1.0 - skip).astype(np.float32)
    level = 1.1 * liking + 0.5 - 0.25 * np.log(seconds / 600)
    probability = {
        "skipped": (1 - stay).astype(np.float32),
        "completed": stay * sigmoid((level - np.log(COMPLETE / (1 - COMPLETE))) / 0.7) * ~fraud,
        "liked": stay * np.where(fraud, 0.7, sigmoid(-2.2 + 1.1 * liking - 0.8 * world.spec.drift(day))),
        "shared": stay * np.where(fraud, 0.2, sigmoid(-4.0 + 0.8 * liking + 0.5 * (age < 30))),
        "commented": stay * np.where(fraud, 0.25, sigmoid(-3.8 + 0.6 * liking)),
        "bookmarked": stay * np.where(fraud, 0.05, sigmoid(-3.2 + 0.9 * liking + 0.4 * (seconds > 1800))),
    }
    stays = random.random(number) < stay
    noise = random.logistic(size=number) * 0.7
    completion = np.where(stays, sigmoid(level + noise), random.random(number) * 0.15)
    completion = np.where(fraud, 0.02 + 0.08 * random.random(number), completion).astype(np.float32)
    observed: dict[str, pa.Array] = {
        "watch_seconds": pa.array((completion * seconds).astype(np.float32)),
        "content_seconds": pa.array(seconds.astype(np.int32)),
        "completion": pa.array(completion),
        "skipped": pa.array(~stays),
        "completed": pa.array(stays & ~fraud & (completion >= COMPLETE)),
    }
    for label in LABELS[2:]:
        conditional = probability[label] / np.maximum(stay, 1e-6)
        observed[label] = pa.array(stays & (random.random(number) < conditional))
    stars = np.clip(np.round(2 * (3.3 + 0.8 * liking + 0.7 * random.normal(size=number))) / 2, 0.5, 5.0)
    rated = stays & ~fraud & (random.random(number) < 0.12)
    observed["rating"] = pa.array(stars.astype(np.float32), mask=~rated)
    return observed, {label: value.astype(np.float32) for label, value in probability.items()}
