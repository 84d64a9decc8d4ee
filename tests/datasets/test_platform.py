"""The generated platform: its size, its truth, its structure, and that a seed is all it depends on."""

import hashlib
import json
from pathlib import Path

import duckdb
import numpy as np
import pytest

from slipway.contracts.artifacts import read_manifest
from slipway.contracts.errors import UsageError
from slipway.datasets.platform.generate import generate
from slipway.datasets.platform.scores import LabelCounts
from slipway.datasets.platform.spec import PlatformSpec

SPEC = PlatformSpec(users=3_000, content=600, events=60_000, days=60, seed=7)
SMALL = PlatformSpec(users=200, content=120, events=3_000, days=8, seed=3)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("generated") / "platform"
    generate(SPEC, target, slipway_version="test")
    return target


def query(platform: Path, sql: str) -> list[tuple[float, ...]]:
    connection = duckdb.connect()
    for table in platform.iterdir():
        if table.is_dir() and table.name != "truth":
            connection.execute(f"CREATE VIEW {table.name} AS FROM read_parquet('{table}/**/*.parquet')")
    for table in (platform / "truth").iterdir():
        connection.execute(f"CREATE VIEW truth_{table.name} AS FROM read_parquet('{table}/**/*.parquet')")
    return connection.execute(sql).fetchall()


def auc(score: np.ndarray, label: np.ndarray) -> float:
    order = np.argsort(score, kind="stable")
    ranks = np.empty(len(score))
    _, inverse, counts = np.unique(score[order], return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks[order] = (ends - (counts - 1) / 2)[inverse]
    positives = int(label.sum())
    return float((ranks[label].sum() - positives * (positives + 1) / 2) / (positives * (len(label) - positives)))


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_workers(tmp_path: Path) -> None:
    generate(SMALL, tmp_path / "one", slipway_version="test")
    generate(SMALL, tmp_path / "two", slipway_version="test", workers=2)
    generate(SMALL.model_copy(update={"seed": 4}), tmp_path / "other", slipway_version="test")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one") != digests(tmp_path / "other")


def test_sizes_are_those_asked_for_and_ids_are_unique(platform: Path) -> None:
    rows = read_manifest(platform, kind="platform", verify=True).rows
    assert (rows["users"], rows["content"], rows["interactions"]) == (3_000, 600, 60_000)
    counted = query(
        platform,
        "SELECT count(*), count(DISTINCT event_id), count(DISTINCT (user_id, content_id, timestamp)) FROM interactions",
    )
    assert counted == [(60_000, 60_000, 60_000)]
    assert query(platform, "SELECT count(*) FROM interactions ANTI JOIN users USING (user_id)") == [(0,)]
    assert query(platform, "SELECT count(*) FROM interactions ANTI JOIN content USING (content_id)") == [(0,)]


def test_a_partition_holds_the_events_of_its_date_in_order(platform: Path) -> None:
    wrong = query(platform, "SELECT count(*) FROM interactions WHERE CAST(timestamp AS DATE) != date")
    assert wrong == [(0,)]
    assert query(platform, "SELECT count(DISTINCT date) FROM interactions") == [(60,)]


def test_nobody_acts_before_signing_up_or_watches_what_is_not_there_yet(platform: Path) -> None:
    early = query(platform, "SELECT count(*) FROM interactions JOIN users USING (user_id) WHERE date < signed_up_on")
    unborn = query(
        platform, "SELECT count(*) FROM interactions JOIN content USING (content_id) WHERE date < uploaded_on"
    )
    assert early == unborn == [(0,)]


@pytest.mark.parametrize("label", ["skipped", "completed", "liked", "shared", "commented", "bookmarked"])
def test_probabilities_are_calibrated_and_their_auc_is_the_one_written(platform: Path, label: str) -> None:
    drawn = np.array(
        query(
            platform,
            f"SELECT probability_{label}, {label} FROM interactions JOIN truth_interactions USING (event_id)",
        )
    )
    probability, happened = drawn[:, 0], drawn[:, 1].astype(bool)
    spread = np.sqrt((probability * (1 - probability)).sum())
    assert abs(happened.sum() - probability.sum()) < 5 * spread
    written = json.loads((platform / "labels.json").read_text())["labels"][label]
    assert written["rows"] == len(happened)
    assert written["best_auc"] == pytest.approx(auc(probability, happened), abs=1e-3)


def test_churn_can_be_foreseen_from_activity_but_not_beyond_the_truth(tmp_path: Path) -> None:
    generate(SPEC.model_copy(update={"users": 8_000, "events": 160_000}), tmp_path / "p", slipway_version="test")
    drawn = np.array(
        query(
            tmp_path / "p",
            "SELECT -count(i.event_id), any_value(churned) FROM renewals r LEFT JOIN interactions i "
            "ON i.user_id = r.user_id AND i.timestamp < r.timestamp AND i.timestamp > r.timestamp - INTERVAL 30 DAY "
            "WHERE r.date > DATE '2025-02-01' GROUP BY r.user_id, r.timestamp",
        )
    )
    seen = auc(drawn[:, 0], drawn[:, 1].astype(bool))
    best = json.loads((tmp_path / "p" / "labels.json").read_text())["labels"]["churned"]["best_auc"]
    assert 0.55 < seen < best


def test_users_return_to_their_genres(platform: Path) -> None:
    favourite = query(
        platform,
        "SELECT avg(best) FROM (SELECT user_id, max(n) / sum(n) AS best FROM (SELECT user_id, genre, count(*) AS n "
        "FROM interactions JOIN content USING (content_id) GROUP BY ALL) GROUP BY user_id HAVING sum(n) >= 20)",
    )[0][0]
    overall = query(
        platform,
        "SELECT max(n) / sum(n) FROM (SELECT count(*) AS n FROM interactions JOIN content USING (content_id) "
        "GROUP BY genre)",
    )[0][0]
    assert favourite > 1.5 * overall


def test_tastes_devices_and_likes_drift(platform: Path) -> None:
    shares = query(
        platform,
        "SELECT avg((genre IN ('comedy', 'sport'))::INT), avg((device = 'mobile')::INT) FROM interactions "
        "JOIN content USING (content_id) GROUP BY date > DATE '2025-02-12' ORDER BY date > DATE '2025-02-12'",
    )
    (genre_before, mobile_before), (genre_after, mobile_after) = shares
    assert genre_after > 1.3 * genre_before
    assert mobile_after > mobile_before + 0.1


def test_evenings_and_weekends_are_busier(platform: Path) -> None:
    weekend, week = query(
        platform, "SELECT count(*) / count(DISTINCT date) FROM interactions GROUP BY isodow(date) >= 6 ORDER BY 1 DESC"
    )
    assert weekend[0] > 1.15 * week[0]
    evening, night = query(
        platform,
        "SELECT count(*) FROM interactions JOIN users USING (user_id) WHERE country = 'GB' "
        "AND hour(timestamp) IN (2, 3, 19, 20) GROUP BY hour(timestamp) >= 19 ORDER BY 1 DESC",
    )
    assert evening[0] > 4 * night[0]


def test_fraudulent_accounts_like_what_they_hardly_watch(platform: Path) -> None:
    honest, fraudulent = query(
        platform,
        "SELECT avg(completion), avg(liked::INT) FROM interactions JOIN fraud_accounts USING (user_id) "
        "GROUP BY is_fraud ORDER BY is_fraud",
    )
    assert fraudulent[0] < honest[0]
    assert fraudulent[1] > honest[1]


def test_velocity_counts_the_payments_of_the_hour_before(platform: Path) -> None:
    wrong = query(
        platform,
        "SELECT count(*) FROM (SELECT any_value(a.transactions_last_hour) AS told, count(b.transaction_id) AS seen "
        "FROM transactions a LEFT JOIN transactions b ON a.user_id = b.user_id AND a.date = b.date AND "
        "(b.timestamp < a.timestamp OR (b.timestamp = a.timestamp AND b.transaction_id < a.transaction_id)) "
        "AND b.timestamp >= a.timestamp - INTERVAL 1 HOUR GROUP BY a.transaction_id) WHERE told != seen",
    )
    assert wrong == [(0,)]


def test_friendships_are_undirected_once_and_mostly_within_segments(platform: Path) -> None:
    pairs = query(
        platform, "SELECT count(*), count(DISTINCT (user_id, friend_id)), min(friend_id > user_id) FROM friendships"
    )
    assert pairs[0][0] == pairs[0][1] > 3_000
    assert pairs[0][2]
    alike = query(
        platform,
        "SELECT avg((a.segment = b.segment)::INT) FROM friendships f JOIN truth_users a ON f.user_id = a.user_id "
        "JOIN truth_users b ON f.friend_id = b.user_id",
    )
    assert alike[0][0] > 0.5


def test_an_existing_folder_is_not_replaced_unasked(platform: Path) -> None:
    with pytest.raises(UsageError, match="--overwrite"):
        generate(SMALL, platform, slipway_version="test")


def test_counts_of_parts_add_up_to_the_counts_of_the_whole() -> None:
    random = np.random.default_rng(5)
    probability = random.random(4_000) ** 2
    label = random.random(4_000) < probability
    whole, first, second = LabelCounts(), LabelCounts(), LabelCounts()
    whole.add(probability, label)
    first.add(probability[:1_000], label[:1_000])
    second.add(probability[1_000:], label[1_000:])
    first.merge(second)
    assert first.summary() == whole.summary()
    assert whole.best_auc() == pytest.approx(auc(probability, label), abs=1e-3)
