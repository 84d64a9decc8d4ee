"""Content and creators: hidden taste dimensions, popularity, text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slipway.datasets.platform.scores import LabelCounts
from slipway.datasets.platform.spec import (
    COUNTRIES,
    DIMENSIONS,
    KINDS,
    LANGUAGES,
    FloatArray,
    IntArray,
    PlatformSpec,
    stream,
)
from slipway.datasets.platform.tables import dates, identifiers, names, write_part
from slipway.datasets.platform.words import GENRE_WORDS, GENRES, VOCABULARY

PART_ROWS = 100_000
TEXT_WORDS = 24
# Share of a text's words that come from its genre; the others come from the whole vocabulary.
GENRE_SHARE = 0.18
RECENCY_DAYS = np.array([20.0, 4.0, 45.0])


@dataclass(frozen=True)
class Catalogue:
    """All content, sorted by genre so that one genre is one slice. Days count from the platform's first day."""

    latent: FloatArray
    genre_latent: FloatArray
    genre: IntArray
    kind: IntArray
    creator: IntArray
    seconds: IntArray
    quality: FloatArray
    popularity: FloatArray
    upload_day: IntArray
    price: FloatArray
    language: IntArray
    genre_start: IntArray

    def weights(self, day: int) -> FloatArray:
        """Returns how likely each piece is to be shown on a day, before taste: popularity, newness, not yet there."""
        age = day - self.upload_day
        newness = 0.25 + np.exp(-np.maximum(age, 0) / RECENCY_DAYS[self.kind])
        return np.where(age >= 0, self.popularity * newness, 0.0).astype(np.float32)


def make_catalogue(spec: PlatformSpec) -> Catalogue:
    """Draws the hidden side of all content."""
    random = stream(spec, "content")
    genre_latent = random.normal(size=(len(GENRES), DIMENSIONS)).astype(np.float32) / np.float32(4)
    shares = random.dirichlet(np.full(len(GENRES), 8.0))
    genre = np.sort(random.choice(len(GENRES), size=spec.content, p=shares))
    genre[: len(GENRES)] = np.arange(len(GENRES))
    genre = np.sort(genre)
    genre_start = np.searchsorted(genre, np.arange(len(GENRES) + 1))
    kind = random.choice(3, size=spec.content, p=[0.6, 0.25, 0.15])
    noise = random.normal(size=(spec.content, DIMENSIONS)).astype(np.float32) / np.float32(4)
    quality = random.normal(size=spec.content).astype(np.float32) * np.float32(0.4)
    creator = (spec.creators * random.random(spec.content) ** 1.8).astype(np.int64)
    popularity = np.exp(random.normal(size=spec.content) * 1.1 + quality - 0.5 * creator / spec.creators)
    upload = random.integers(-365, spec.days, size=spec.content)
    upload[genre_start[:-1]] = -365
    low, spread = np.array([240, 90, 900])[kind], np.array([0.9, 0.5, 0.5])[kind]
    seconds = (low * np.exp(np.abs(random.normal(size=spec.content)) * spread)).astype(np.int64)
    paid = random.random(spec.content) < np.where(kind == 0, 0.12, 0.03)
    price = np.where(paid, np.array([1.99, 2.99, 3.99, 4.99])[random.integers(0, 4, spec.content)], 0.0)
    language = random.choice(len(LANGUAGES), size=spec.content, p=[0.5, 0.14, 0.12, 0.12, 0.07, 0.05])
    return Catalogue(
        latent=genre_latent[genre] + noise * np.float32(0.9),
        genre_latent=genre_latent,
        genre=genre,
        kind=kind,
        creator=creator,
        seconds=seconds,
        quality=quality,
        popularity=popularity.astype(np.float32),
        upload_day=upload,
        price=price.astype(np.float32),
        language=language,
        genre_start=genre_start,
    )


def write_content(spec: PlatformSpec, catalogue: Catalogue, folder: Path) -> tuple[int, LabelCounts]:
    """Writes the content table and returns its rows and the counts of "which genre does the text belong to"."""
    ids, creators = identifiers("c", spec.content), identifiers("a", spec.creators)
    first_day = int(np.datetime64(spec.start, "D").astype(np.int64))
    resolutions = ("480p", "720p", "1080p", "2160p")
    audio = ("standard", "high", "lossless")
    counts = LabelCounts()
    rows = 0
    for part, start in enumerate(range(0, spec.content, PART_ROWS)):
        chosen = slice(start, min(start + PART_ROWS, spec.content))
        genre, kind = catalogue.genre[chosen], catalogue.kind[chosen]
        random = stream(spec, "text", part)
        number = len(genre)
        text, title, words = _texts(random, genre)
        _count_genres(catalogue, genre, words, counts)
        resolution = names(resolutions, random.choice(4, size=number, p=[0.1, 0.25, 0.5, 0.15]))
        quality = names(audio, random.choice(3, size=number, p=[0.5, 0.4, 0.1]))
        columns = {
            "content_id": ids[chosen.start : chosen.stop],
            "kind": names(KINDS, kind),
            "genre": names(GENRES, genre),
            "tags": _tags(random, genre),
            "duration_seconds": pa.array(catalogue.seconds[chosen].astype(np.int32)),
            "resolution": pc.if_else(pa.array(kind == 0), resolution, None),
            "audio_quality": pc.if_else(pa.array(kind != 1), quality, None),
            "language": names(LANGUAGES, catalogue.language[chosen]),
            "creator_id": creators.take(pa.array(catalogue.creator[chosen])),
            "uploaded_on": dates(catalogue.upload_day[chosen] + first_day),
            "price": pa.array(catalogue.price[chosen]),
            "title": title,
            "text": text,
        }
        rows += write_part(folder / f"part-{part:05d}.parquet", columns)
    return rows, counts


def write_creators(spec: PlatformSpec, catalogue: Catalogue, folder: Path) -> int:
    """Writes the creators; followers grow with the popularity of what they made."""
    random = stream(spec, "creators")
    reach = np.bincount(catalogue.creator, weights=catalogue.popularity, minlength=spec.creators)
    followers = (40 * (1 + reach) * np.exp(random.normal(size=spec.creators) * 0.8)).astype(np.int64)
    shares = np.array([country[3] for country in COUNTRIES])
    first_day = int(np.datetime64(spec.start, "D").astype(np.int64))
    columns = {
        "creator_id": identifiers("a", spec.creators),
        "country": names([country[0] for country in COUNTRIES], random.choice(len(COUNTRIES), spec.creators, p=shares)),
        "followers": pa.array(followers),
        "joined_on": dates(first_day - 366 - random.integers(0, 1500, spec.creators)),
    }
    return write_part(folder / "part-00000.parquet", columns)


def _texts(random: np.random.Generator, genre: IntArray) -> tuple[pa.Array, pa.Array, IntArray]:
    """Returns texts, titles, and the words of each text as vocabulary rows [n, TEXT_WORDS]."""
    position = {word: row for row, word in enumerate(VOCABULARY)}
    own = np.array([[position[word] for word in words] for words in GENRE_WORDS])
    shape = (len(genre), TEXT_WORDS)
    from_genre = random.random(shape) < GENRE_SHARE
    words = np.where(
        from_genre,
        own[genre[:, None], random.integers(0, own.shape[1], shape)],
        random.integers(0, len(VOCABULARY), shape),
    )
    columns = [names(VOCABULARY, words[:, column]) for column in range(TEXT_WORDS)]
    text = pc.binary_join_element_wise(*columns, " ")
    title = pc.utf8_capitalize(pc.binary_join_element_wise(*columns[:3], " "))
    return text, title, words


def _count_genres(catalogue: Catalogue, genre: IntArray, words: IntArray, counts: LabelCounts) -> None:
    """Counts, for every (text, genre), whether it is the text's genre, by the exact posterior given all words."""
    position = {word: row for row, word in enumerate(VOCABULARY)}
    likelihood = np.full((len(GENRES), len(VOCABULARY)), (1 - GENRE_SHARE) / len(VOCABULARY))
    for row, own in enumerate(GENRE_WORDS):
        for word in own:
            likelihood[row, position[word]] += GENRE_SHARE / len(own)
    logs = np.log(likelihood)
    prior = np.log(np.diff(catalogue.genre_start) / len(catalogue.genre))
    score = np.stack([logs[row][words].sum(axis=1) + prior[row] for row in range(len(GENRES))], axis=1)
    posterior = np.exp(score - score.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    counts.add(posterior.ravel(), (genre[:, None] == np.arange(len(GENRES))).ravel())


def _tags(random: np.random.Generator, genre: IntArray) -> pa.Array:
    """Returns two to four tags a piece, most of them words of its genre."""
    own = np.array([[VOCABULARY.index(word) for word in words] for words in GENRE_WORDS])
    size = random.integers(2, 5, len(genre))
    offsets = np.concatenate([[0], np.cumsum(size)])
    owner = np.repeat(genre, size)
    strange = random.random(len(owner)) < 0.15
    row = np.where(strange, random.integers(0, len(GENRES), len(owner)), owner)
    values = names(VOCABULARY, own[row, random.integers(0, own.shape[1], len(owner))])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
