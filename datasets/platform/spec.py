"""The size of a generated platform, its random streams, and what is planted in it."""

from __future__ import annotations

import zlib
from datetime import date

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

PERIOD_DAYS = 30
DIMENSIONS = 16
KINDS = ("video", "article", "podcast")
LANGUAGES = ("en", "de", "fr", "es", "pt", "ja")
SUBSCRIPTIONS = ("free", "basic", "premium")
PRICES = (0.0, 6.99, 12.99)
DEVICES = ("mobile", "desktop", "tablet", "tv")
PLATFORMS = ("ios", "android", "web", "smart_tv")

# Country, language, hours ahead of UTC, share of the users.
COUNTRIES = (
    ("US", "en", -6, 0.30),
    ("GB", "en", 0, 0.14),
    ("DE", "de", 1, 0.14),
    ("FR", "fr", 1, 0.12),
    ("ES", "es", 1, 0.08),
    ("MX", "es", -6, 0.08),
    ("BR", "pt", -3, 0.08),
    ("JP", "ja", 9, 0.06),
)


class PlatformSpec(BaseModel):
    """Everything that decides what is generated: the same values give the same bytes.

    `events` interactions are spread over `days` days from `start`; one user in a hundred is a fraudulent account.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: int = Field(default=20_000, ge=100, le=50_000_000)
    content: int = Field(default=4_000, ge=100, le=5_000_000)
    events: int = Field(default=1_000_000, ge=1_000)
    days: int = Field(default=90, ge=7, le=3_650)
    seed: int = Field(default=42, ge=0)
    start: date = date(2025, 1, 1)

    @property
    def periods(self) -> int:
        """Number of billing periods of 30 days, the last one perhaps cut short."""
        return -(-self.days // PERIOD_DAYS)

    @property
    def creators(self) -> int:
        """Number of creators."""
        return max(20, self.content // 20)

    @property
    def drift_day(self) -> int:
        """The day around which tastes, devices and the meaning of a like change."""
        return int(self.days * 0.6)

    def drift(self, day: int) -> float:
        """Returns how far the change has come on a day: 0 well before `drift_day`, 1 well after."""
        width = max(self.days / 20, 1.0)
        return float(0.5 * (1 + np.tanh((day - self.drift_day) / width)))

    def events_of_days(self) -> IntArray:
        """Returns the number of interactions of each day: weekly rhythm, growth, and a sum of exactly `events`."""
        days = np.arange(self.days)
        weekday = (days + self.start.weekday()) % 7
        rhythm = np.array([0.90, 0.88, 0.92, 0.96, 1.05, 1.22, 1.18])[weekday]
        season = 1 + 0.08 * np.cos(2 * np.pi * (days + self.start.timetuple().tm_yday - 15) / 365.25)
        share = rhythm * season * (1 + 0.3 * days / self.days)
        exact = share / share.sum() * self.events
        counts: IntArray = np.floor(exact).astype(np.int64)
        counts[np.argsort(counts - exact, kind="stable")[: self.events - counts.sum()]] += 1
        return counts


def stream(spec: PlatformSpec, name: str, *index: int) -> np.random.Generator:
    """Returns the random stream of one purpose, day or part; streams do not depend on each other."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([spec.seed, zlib.crc32(name.encode()), *index])))


def sigmoid(value: NDArray[np.floating]) -> FloatArray:
    """Returns 1 / (1 + exp(-value)) in float32."""
    return (1.0 / (1.0 + np.exp(-value.astype(np.float32)))).astype(np.float32)


def planted(spec: PlatformSpec) -> dict[str, object]:
    """Returns a description of what is planted, for the data set's own record."""
    return {
        "structure": "users in 8 segments with three favourite genres each; 16 hidden dimensions of taste; content "
        "around its genre; friendships mostly within a segment",
        "seasonality": "hour of the local day, weekday, time of the year, growth of 30 % over the whole span",
        "drift": {
            "day": spec.drift_day,
            "what": "tastes move to the first two genres and off the third, sessions to mobile (covariates); likes "
            "become rarer at the same affinity (concept)",
        },
        "engagement": "each user's activity follows a hidden level from period to period; churn and conversion depend "
        "on it, so interaction counts predict them",
        "fraud": "1 % of the accounts belong to rings that like what they hardly watch, from 2 % of all sessions, and "
        "pay in bursts; payment fraud depends on amount, hour, countries, device, account age and velocity",
    }
