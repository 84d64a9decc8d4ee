"""One day of money: offers taken or not, renewals or churn, payments, and the frauds among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from slipway.datasets.platform.activity import DAY, World
from slipway.datasets.platform.scores import LabelCounts
from slipway.datasets.platform.spec import (
    COUNTRIES,
    PERIOD_DAYS,
    PRICES,
    SUBSCRIPTIONS,
    BoolArray,
    DoubleArray,
    FloatArray,
    IntArray,
    sigmoid,
    stream,
)
from slipway.datasets.platform.tables import names, times, write_part

METHODS = ("card", "wallet", "bank_transfer")
TRANSACTION_KINDS = ("subscription", "purchase", "gift_card")
PURCHASES_PER_EVENT = 0.012
HOUR = 3_600_000_000


def write_commerce(world: World, day: int, folder: Path, counts: dict[str, LabelCounts]) -> dict[str, int]:
    """Writes one day of conversions, renewals, transactions and fraud labels; returns {table: rows}.

    Args:
        world: The platform.
        day: Day from the first one.
        folder: The data set.
        counts: Where labels are counted by true probability.
    """
    random = stream(world.spec, "commerce", day)
    rows = _write_changes(world, day, folder, counts, random)
    return rows | _write_transactions(world, day, folder, counts, random)


def _billed_today(world: World, day: int) -> IntArray:
    population = world.population
    return np.flatnonzero((population.billing_day == day % PERIOD_DAYS) & (population.sign_up_day <= day))


def _write_changes(
    world: World, day: int, folder: Path, counts: dict[str, LabelCounts], random: np.random.Generator
) -> dict[str, int]:
    user, period = _billed_today(world, day), day // PERIOD_DAYS
    time = random.integers(0, DAY, len(user))
    order = np.lexsort((user, time))
    user, time = user[order], time[order] + _midnight(world, day)
    subscriptions = world.population.subscriptions
    before, after = subscriptions.before[user, period], subscriptions.after[user, period]
    probability = subscriptions.probability[user, period]
    discount = subscriptions.discount[user, period]
    price = np.array(PRICES, np.float32)
    rows = {}
    for table, label, chosen, happened in (
        ("conversions", "converted", before == 0, after > 0),
        ("renewals", "churned", before > 0, after == 0),
    ):
        who = user[chosen]
        values = happened[chosen]
        columns = {
            "user_id": world.user_ids.take(pa.array(who)),
            "timestamp": times(time[chosen]),
            "from_subscription": names(SUBSCRIPTIONS, before[chosen]),
            "to_subscription": names(SUBSCRIPTIONS, after[chosen]),
            "tenure_days": pa.array((day - world.population.sign_up_day[who]).astype(np.int32)),
            "discount": pa.array(discount[chosen]),
            "amount": pa.array((price[after[chosen]] * (1 - discount[chosen])).astype(np.float32)),
            label: pa.array(values),
        }
        date = f"date={np.datetime64(world.spec.start, 'D') + day}"
        rows[table] = write_part(folder / table / date / "part-00000.parquet", columns)
        counts[label].add(probability[chosen], values)
        truth = {
            "user_id": columns["user_id"],
            "timestamp": columns["timestamp"],
            f"probability_{label}": pa.array(probability[chosen]),
        }
        write_part(folder / "truth" / table / date / "part-00000.parquet", truth)
    return rows


def _write_transactions(
    world: World, day: int, folder: Path, counts: dict[str, LabelCounts], random: np.random.Generator
) -> dict[str, int]:
    user, kind, content, amount, time, strange = _payments(world, day, random)
    order = np.lexsort((kind, user, time))
    user, kind, content, amount = user[order], kind[order], content[order], amount[order]
    time, strange = time[order], strange[order]
    number = len(user)
    population = world.population
    home = population.country[user]
    card = _elsewhere(home, np.where(strange, 0.4, 0.03), random)
    network = _elsewhere(home, np.where(strange, 0.4, 0.05), random)
    new_device = random.random(number) < np.where(strange, 0.5, 0.06)
    ahead = np.array([row[2] for row in COUNTRIES])[home]
    hour = (time // HOUR + ahead) % 24
    account_age = np.maximum(day - population.sign_up_day[user], 0)
    velocity = _recent(user, time)
    probability = sigmoid(
        -7.0
        + 0.8 * np.log1p(amount)
        + 1.4 * ((hour < 6) | (hour >= 23))
        + 1.6 * (card != network)
        + 1.0 * (card != home)
        + 1.1 * new_device
        + 1.3 * np.log1p(velocity)
        + 0.8 * np.exp(-account_age / 30)
        + 1.5 * ((velocity > 2) & new_device)
    )
    fraud = random.random(number) < probability
    ids = pa.array(day * 10_000_000_000 + np.arange(number))
    places = [row[0] for row in COUNTRIES]
    columns = {
        "transaction_id": ids,
        "user_id": world.user_ids.take(pa.array(user)),
        "timestamp": times(time + _midnight(world, day)),
        "kind": names(TRANSACTION_KINDS, kind),
        "content_id": world.content_ids.take(pa.array(content, mask=content < 0)),
        "amount": pa.array(amount),
        "payment_method": names(METHODS, random.choice(3, size=number, p=[0.6, 0.3, 0.1])),
        "card_country": names(places, card),
        "network_country": names(places, network),
        "new_device": pa.array(new_device),
        "local_hour": pa.array(hour.astype(np.int8)),
        "account_age_days": pa.array(account_age.astype(np.int32)),
        "transactions_last_hour": pa.array(velocity.astype(np.int32)),
    }
    part = f"date={np.datetime64(world.spec.start, 'D') + day}/part-00000.parquet"
    rows = write_part(folder / "transactions" / part, columns)
    write_part(folder / "fraud_labels" / part, {"transaction_id": ids, "is_fraud": pa.array(fraud)})
    write_part(
        folder / "truth" / "fraud_labels" / part, {"transaction_id": ids, "probability_is_fraud": pa.array(probability)}
    )
    counts["is_fraud"].add(probability, fraud)
    return {"transactions": rows, "fraud_labels": rows}


def _payments(
    world: World, day: int, random: np.random.Generator
) -> tuple[IntArray, IntArray, IntArray, FloatArray, IntArray, BoolArray]:
    """Returns user, kind, content (-1 without), amount, time of day, and whether a ring pays."""
    population, catalogue = world.population, world.catalogue
    billed, period = _billed_today(world, day), day // PERIOD_DAYS
    plan = population.subscriptions.after[billed, period]
    billed, plan = billed[plan > 0], plan[plan > 0]
    discount = population.subscriptions.discount[billed, period]
    fees = (np.array(PRICES, np.float32)[plan] * (1 - discount)).astype(np.float32)

    number = max(int(world.spec.events_of_days()[day] * PURCHASES_PER_EVENT), 1)
    activity = np.cumsum(population.activity_on(day), dtype=np.float64)
    buyer = np.searchsorted(activity, random.random(number) * activity[-1], side="right")
    buyer = np.minimum(buyer, world.spec.users - 1)
    weights = np.cumsum(catalogue.weights(day) * (catalogue.price > 0), dtype=np.float64)
    gift = random.random(number) < 0.1
    if weights[-1] > 0:
        bought = np.searchsorted(weights, random.random(number) * weights[-1], side="right")
        bought = np.minimum(bought, world.spec.content - 1)
    else:
        gift = np.ones(number, np.bool_)
        bought = np.zeros(number, np.int64)
    amounts = np.where(gift, np.exp(random.normal(3.0, 0.7, number)).round(2), catalogue.price[bought])

    accounts = np.flatnonzero(population.fraudulent & (population.sign_up_day <= day))
    bursts = random.random(len(accounts)) < 0.06
    size = random.integers(2, 11, len(accounts)) * bursts
    payer = np.repeat(accounts, size)
    start = random.integers(0, DAY - HOUR, len(accounts))
    burst_time = np.repeat(start, size) + random.integers(0, HOUR // 2, len(payer))
    burst_amount = np.exp(random.normal(1.5, 1.0, len(payer))).round(2)

    user = np.concatenate([billed, buyer, payer])
    kind = np.concatenate([np.zeros(len(billed), np.int64), np.where(gift, 2, 1), np.full(len(payer), 2)])
    content = np.concatenate([np.full(len(billed), -1), np.where(gift, -1, bought), np.full(len(payer), -1)])
    amount = np.concatenate([fees, amounts, burst_amount]).astype(np.float32)
    time = np.concatenate([random.integers(0, DAY, len(billed) + number), burst_time])
    strange = np.concatenate([np.zeros(len(billed) + number, np.bool_), np.ones(len(payer), np.bool_)])
    return user, kind, content, amount, time, strange


def _elsewhere(home: IntArray, chance: DoubleArray, random: np.random.Generator) -> IntArray:
    away = random.random(len(home)) < chance
    return np.where(away, random.integers(0, len(COUNTRIES), len(home)), home)


def _recent(user: IntArray, time: IntArray) -> IntArray:
    """Returns how many payments the same user made in the hour before each, on the same day."""
    key = user * (2 * DAY) + time
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    counts = np.empty(len(user), np.int64)
    counts[order] = np.arange(len(user)) - np.searchsorted(ordered, ordered - HOUR, side="left")
    return counts


def _midnight(world: World, day: int) -> int:
    return int((np.datetime64(world.spec.start, "us") + np.timedelta64(day, "D")).astype(np.int64))
