"""Users: segments, hidden tastes, activity from period to period, subscriptions, rings of fraudulent accounts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from slipway.datasets.platform.catalogue import Catalogue
from slipway.datasets.platform.spec import (
    COUNTRIES,
    DIMENSIONS,
    LANGUAGES,
    PERIOD_DAYS,
    SUBSCRIPTIONS,
    BoolArray,
    FloatArray,
    IntArray,
    PlatformSpec,
    sigmoid,
    stream,
)
from slipway.datasets.platform.tables import dates, identifiers, names, write_part

SEGMENTS = 8
PART_ROWS = 250_000
FRAUD_SHARE = 0.01
RINGS = 5
AGE_OF_SEGMENT = np.array([22.0, 28.0, 34.0, 41.0, 48.0, 55.0, 63.0, 37.0])


@dataclass(frozen=True)
class Subscriptions:
    """What happens at the end of each user's billing period; arrays [users, periods].

    `before` and `after` are rows of SUBSCRIPTIONS. A paying user renews or churns with `probability`; a free one takes
    an offer or does not. Discounts are those of the offers.
    """

    before: np.ndarray[tuple[int, ...], np.dtype[np.int8]]
    after: np.ndarray[tuple[int, ...], np.dtype[np.int8]]
    probability: FloatArray
    discount: FloatArray


@dataclass(frozen=True)
class Population:
    """All users; arrays have one row a user. Days count from the platform's first day."""

    latent: FloatArray
    genre_logits: FloatArray
    segment: IntArray
    age: IntArray
    country: IntArray
    language: IntArray
    sign_up_day: IntArray
    activity: FloatArray
    engagement: FloatArray
    device: IntArray
    billing_day: IntArray
    ring: IntArray
    subscriptions: Subscriptions
    affinity_mean: float
    affinity_scale: float

    @property
    def fraudulent(self) -> BoolArray:
        """Whether an account belongs to a ring."""
        return self.ring >= 0

    def activity_on(self, day: int) -> FloatArray:
        """Returns how likely each user is to open a session on a day, up to a constant."""
        period = day // PERIOD_DAYS
        level = self.activity * np.exp(self.engagement[:, period])
        left = (self.subscriptions.before[:, period] == 0) & (self.subscriptions.before[:, 0] > 0)
        return np.where(self.sign_up_day <= day, level * np.where(left, 0.4, 1.0), 0.0).astype(np.float32)


def make_population(spec: PlatformSpec, catalogue: Catalogue) -> Population:
    """Draws the hidden side of all users."""
    random = stream(spec, "users")
    favourites = np.argsort(random.random((SEGMENTS, len(catalogue.genre_latent))), axis=1)[:, :3]
    centre = catalogue.genre_latent[favourites].sum(axis=1) * np.float32(1.1)
    segment = random.integers(0, SEGMENTS, spec.users)
    noise = random.normal(size=(spec.users, DIMENSIONS)).astype(np.float32) / np.float32(4)
    latent = centre[segment] + noise * np.float32(1.2)
    mean, scale = _affinity_moments(spec, catalogue, latent)
    logits = np.einsum("ij,kj->ik", latent, catalogue.genre_latent)
    logits = ((logits - np.float32(mean)) * np.float32(1.1 / scale)).astype(np.float32)
    age = np.clip(random.normal(AGE_OF_SEGMENT[segment], 8.0), 14, 90).astype(np.int64)
    country = random.choice(len(COUNTRIES), size=spec.users, p=[row[3] for row in COUNTRIES])
    spoken = np.array([LANGUAGES.index(row[1]) for row in COUNTRIES])[country]
    language = np.where(random.random(spec.users) < 0.9, spoken, 0)
    early = random.random(spec.users) < 0.75
    sign_up = np.where(
        early, -(900 * random.random(spec.users) ** 1.5).astype(np.int64) - 1, random.integers(0, spec.days, spec.users)
    )
    sign_up[: spec.users // 20] = -1 - np.arange(spec.users // 20) % 365
    activity = np.exp(random.normal(size=spec.users) * 0.9).astype(np.float32)
    device = random.choice(4, size=spec.users, p=[0.48, 0.27, 0.1, 0.15])
    billing = random.integers(0, PERIOD_DAYS, spec.users)
    ring = np.where(random.random(spec.users) < FRAUD_SHARE, random.integers(0, RINGS, spec.users), -1)
    if not (ring >= 0).any():
        ring[0] = 0
    engagement = _engagement(spec)
    return Population(
        latent=latent,
        genre_logits=logits,
        segment=segment,
        age=age,
        country=country,
        language=language,
        sign_up_day=sign_up,
        activity=activity,
        engagement=engagement,
        device=device,
        billing_day=billing,
        ring=ring,
        subscriptions=_subscriptions(spec, age, sign_up, billing, engagement),
        affinity_mean=mean,
        affinity_scale=scale,
    )


def write_users(spec: PlatformSpec, population: Population, folder: Path) -> int:
    """Writes the users table: what the platform knows of them on the first day or at their sign-up."""
    ids = identifiers("u", spec.users)
    first_day = int(np.datetime64(spec.start, "D").astype(np.int64))
    rows = 0
    for part, start in enumerate(range(0, spec.users, PART_ROWS)):
        chosen = slice(start, min(start + PART_ROWS, spec.users))
        columns = {
            "user_id": ids[chosen.start : chosen.stop],
            "age": pa.array(population.age[chosen].astype(np.int16)),
            "country": names([row[0] for row in COUNTRIES], population.country[chosen]),
            "language": names(LANGUAGES, population.language[chosen]),
            "subscription": names(SUBSCRIPTIONS, population.subscriptions.before[chosen, 0]),
            "signed_up_on": dates(population.sign_up_day[chosen] + first_day),
        }
        rows += write_part(folder / f"part-{part:05d}.parquet", columns)
    return rows


def write_accounts_truth(spec: PlatformSpec, population: Population, users: Path, fraud: Path) -> tuple[int, int]:
    """Writes the hidden segment of each user, and which accounts are fraudulent; returns the rows of both."""
    ids = identifiers("u", spec.users)
    ring = pa.array(population.ring, mask=~population.fraudulent)
    truth = write_part(
        users / "part-00000.parquet",
        {"user_id": ids, "segment": pa.array(population.segment.astype(np.int8)), "activity": population.activity},
    )
    accounts = write_part(
        fraud / "part-00000.parquet", {"user_id": ids, "is_fraud": pa.array(population.fraudulent), "ring": ring}
    )
    return truth, accounts


def _affinity_moments(spec: PlatformSpec, catalogue: Catalogue, latent: FloatArray) -> tuple[float, float]:
    random = stream(spec, "affinity")
    users, content = random.integers(0, spec.users, 20_000), random.integers(0, spec.content, 20_000)
    values = np.einsum("ij,ij->i", latent[users], catalogue.latent[content])
    return float(values.mean()), float(values.std())


def _engagement(spec: PlatformSpec) -> FloatArray:
    """Returns each user's hidden level of activity by period, an autoregression of order one."""
    level = np.empty((spec.users, spec.periods), np.float32)
    level[:, 0] = stream(spec, "engagement", 0).normal(size=spec.users) * 0.6
    for period in range(1, spec.periods):
        step = stream(spec, "engagement", period).normal(size=spec.users)
        level[:, period] = 0.8 * level[:, period - 1] + 0.36 * step
    return level


def _subscriptions(
    spec: PlatformSpec, age: IntArray, sign_up: IntArray, billing: IntArray, engagement: FloatArray
) -> Subscriptions:
    shape = (spec.users, spec.periods)
    before, after = np.empty(shape, np.int8), np.empty(shape, np.int8)
    probability, discount = np.empty(shape, np.float32), np.empty(shape, np.float32)
    random = stream(spec, "subscriptions")
    chance = sigmoid(-0.9 + 0.5 * engagement[:, 0] + 0.01 * (age - 40))
    paying = (random.random(spec.users) < chance) & (sign_up < 0)
    current = np.where(paying, np.where(random.random(spec.users) < 0.35, 2, 1), 0).astype(np.int8)
    for period in range(spec.periods):
        random = stream(spec, "subscriptions", period)
        level = engagement[:, period]
        tenure = np.maximum(period * PERIOD_DAYS - sign_up, 0) / 365
        offer = np.array([0.0, 0.2, 0.5])[random.integers(0, 3, spec.users)]
        leave = sigmoid(-2.6 - 1.5 * level - 0.6 * np.minimum(tenure, 2) + 0.5 * (current == 2) - 0.012 * (age - 40))
        take = sigmoid(-3.3 + 1.2 * level + 3.0 * offer + 0.008 * (age - 40))
        before[:, period] = current
        probability[:, period] = np.where(current > 0, leave, take)
        discount[:, period] = np.where(current > 0, 0.0, offer)
        here = sign_up <= period * PERIOD_DAYS + billing
        event = here & (random.random(spec.users) < probability[:, period])
        plan = np.where(random.random(spec.users) < 0.3, 2, 1)
        current = np.where(event, np.where(current > 0, 0, plan), current).astype(np.int8)
        after[:, period] = current
    return Subscriptions(before, after, probability, discount)
