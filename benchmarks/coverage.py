"""How often the rollout's intervals ever exclude the truth when looked at after every window: coverage over all time.

A miss is a run in which an interval, after any of its windows, does not hold the true value; with a level of 5 %, at
most 5 % of runs may miss. Windows hold 1,000 requests of both arms. Splits are fixed (1:1, 1:9, 1:99) or rise as in a
rollout; rates are constant or swing, and the same minutes are bad for both arms. The functions are those that the
rollout decides by, on many runs at once. Prints one JSON object, or with --table a table for the documentation.
Run: python benchmarks/coverage.py [--runs 2000] [--windows 200] [--table]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from slipway.serving.rollout.core import drift, means
from slipway.serving.rollout.core.differences import BEYOND, MEMORY, guess_of, log_difference_ratios
from slipway.serving.rollout.core.evidence import (
    log_evidences_above,
    log_evidences_below,
    log_mean_exps,
    log_odds_grid,
    start_any_time,
    update_any_time,
)
from slipway.serving.rollout.core.hypergeometric import log_likelihoods
from slipway.serving.rollout.core.proportions import difference_intervals, rate_intervals
from slipway.serving.rollout.core.windows import Buckets

ALPHA = 0.05
REQUESTS = 1000
Floats = NDArray[np.float64]
Misses = NDArray[np.bool_]
SPLITS: dict[str, Callable[[float], int]] = {
    "1:1": lambda _: REQUESTS // 2,
    "1:9": lambda _: REQUESTS // 10,
    "1:99": lambda _: REQUESTS // 100,
    "1:99, 1:9, 1:1 in turn": lambda done: REQUESTS // (100, 10, 2)[min(2, int(3 * done))],
}


@dataclass(frozen=True)
class Row:
    """One measurement: what is bounded, under which conditions, and in how many of the runs it was ever missed."""

    sequence: str
    conditions: str
    runs: int
    windows: int
    missed: int
    split: str = ""
    exact: bool = True
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """Returns the row with the share of misses and its exact 95 % interval (Clopper and Pearson 1934)."""
        low = float(beta.ppf(0.025, self.missed, self.runs - self.missed + 1)) if self.missed else 0.0
        high = float(beta.ppf(0.975, self.missed + 1, self.runs - self.missed)) if self.missed < self.runs else 1.0
        return {
            "sequence": self.sequence,
            "conditions": self.conditions,
            "split": self.split,
            "runs": self.runs,
            "windows": self.windows,
            "missed": round(self.missed / self.runs, 4),
            "interval": [round(low, 4), round(high, 4)],
            "nominal": ALPHA,
            "holds": low <= ALPHA,
            "exact": self.exact,
            **({"note": self.note} if self.note else {}),
        }


def base_rate(rate: float, window: int, *, swinging: bool) -> float:
    """Returns the common rate of a window; swinging, it goes up and down by nine tenths and has bad minutes."""
    if not swinging:
        return rate
    return min(0.9, 8 * rate) if window % 41 == 40 else rate * (1 + 0.9 * math.sin(window / 7))


def with_odds(rate: float, ratio: float) -> float:
    """Returns the rate whose odds are `ratio` times those of `rate`."""
    return ratio * rate / (1 - rate + ratio * rate)


def odds_ratios(runs: int, windows: int, rate: float, ratio: float, split: str, *, swinging: bool) -> Row:
    """The confidence sequence of the odds ratio."""
    rng, truth = np.random.default_rng(1), math.log(ratio)
    grid = log_odds_grid(truth)
    sums, missed = np.zeros((runs, len(grid))), np.zeros(runs, dtype=bool)
    for window in range(windows):
        n_c, base = SPLITS[split](window / windows), base_rate(rate, window, swinging=swinging)
        x, y = rng.binomial(n_c, with_odds(base, ratio), runs), rng.binomial(REQUESTS - n_c, base, runs)
        sums += log_likelihoods(x, n_c, REQUESTS - n_c, x + y, grid)
        for evidence in (log_evidences_above(sums, grid, truth), log_evidences_below(sums, grid, truth)):
            missed |= evidence >= math.log(2 / ALPHA)
    moving = "swinging round" if swinging else "of"
    conditions = f"rate {moving} {rate:g}, odds ratio {ratio:g}"
    return Row("odds ratio", conditions, runs, windows, int(missed.sum()), split)


def rates(runs: int, windows: int, rate: float, *, swinging: bool) -> Row:
    """The confidence sequence of one arm's rate; of its mean over the windows, where it swings."""
    rng, missed, bad, means_so_far = np.random.default_rng(2), np.zeros(runs, dtype=bool), np.zeros(runs, int), 0.0
    for window in range(windows):
        base = base_rate(rate, window, swinging=swinging)
        means_so_far += base
        bad += rng.binomial(REQUESTS, base, runs)
        low, high = rate_intervals(bad, np.full(runs, REQUESTS * (window + 1)), ALPHA)
        missed |= (means_so_far / (window + 1) < low) | (means_so_far / (window + 1) > high)
    conditions = f"rate {'swinging round' if swinging else 'of'} {rate:g}"
    note = "the law is that of a constant rate" if swinging else ""
    return Row("rate of one arm", conditions, runs, windows, int(missed.sum()), exact=not swinging, note=note)


def differences(runs: int, windows: int, rate: float, extra: float, split: str, *, swinging: bool) -> Row:
    """The confidence sequence of the difference of rates within one step, whose split is fixed."""
    rng, missed = np.random.default_rng(3), np.zeros(runs, dtype=bool)
    counts, n_c = np.zeros((2, runs), int), SPLITS[split](0.0)
    for window in range(windows):
        base = base_rate(rate, window, swinging=swinging)
        counts[0] += rng.binomial(n_c, min(1.0, base + extra), runs)
        counts[1] += rng.binomial(REQUESTS - n_c, base, runs)
        n = np.full((2, runs), [[n_c * (window + 1)], [(REQUESTS - n_c) * (window + 1)]])
        low, high = difference_intervals(counts[0], n[0], counts[1], n[1], ALPHA)
        missed |= (extra < low) | (extra > high)
    conditions = f"rate {'swinging round' if swinging else 'of'} {rate:g}, difference {extra:g}"
    note = "the law is that of a constant rate" if swinging else ""
    return Row("difference of rates", conditions, runs, windows, int(missed.sum()), split, not swinging, note)


def harm_beyond(runs: int, windows: int, rate: float, split: str, *, swinging: bool) -> Row:
    """The evidence that a difference of rates is beyond a tolerated one, of a candidate that is worse by just that."""
    rng, missed, margin = np.random.default_rng(8), np.zeros(runs, dtype=bool), 0.01
    mixture, base = np.tile(start_any_time(len(BEYOND)), (runs, 1)), np.zeros((2, runs))
    for window in range(windows):
        n_c, stable = SPLITS[split](window / windows), base_rate(rate, window, swinging=swinging)
        n = np.full((2, runs), [[n_c], [REQUESTS - n_c]])
        x, y = rng.binomial(n[0], stable + margin), rng.binomial(n[1], stable)
        ratios = log_difference_ratios(x, n[0], y, n[1], guess_of(base[0], base[1], margin), margin)
        mixture = update_any_time(mixture, ratios, window, math.inf)
        base = MEMORY * base + np.stack([y, n[1]])
        missed |= log_mean_exps(mixture) >= math.log(1 / ALPHA)
    conditions = f"rate {'swinging round' if swinging else 'of'} {rate:g}, worse by the tolerated {margin:g}"
    return Row("harm beyond a difference", conditions, runs, windows, int(missed.sum()), split)


def mean_differences(runs: int, windows: int, law: str, extra: float, split: str, *, swinging: bool) -> Row:
    """The confidence sequence of the difference of two means; windows of a hundred values."""
    rng, missed = np.random.default_rng(4), np.zeros(runs, dtype=bool)
    worse, better = np.zeros((2, runs, len(means.BETS)))
    weight, seen = np.zeros(runs), np.zeros((2, 2, runs))  # Arm, then number and sum of values.
    for window in range(windows):
        n_c = max(1, SPLITS[split](window / windows) // 10)
        level = min(0.45, base_rate(0.2, window, swinging=swinging))
        arms = []
        for arm, n in enumerate((n_c, 100 - n_c)):
            values = draw(rng, law, level + (extra if arm == 0 else 0.0), (runs, n))
            guess = (seen[arm, 1] + 0.5) / (seen[arm, 0] + 1)
            arms.append(np.stack([np.full(runs, float(n)), values.sum(1), (values**2).sum(1), guess]))
            seen[arm] += arms[-1][:2]
        gain, penalty, effective = means.log_increments(arms[0], arms[1])
        worse += gain - penalty
        better += -gain - penalty
        weight += effective
        shift = extra * weight[:, None] * means.BETS
        for log_evidence in (log_mean_exps(worse - shift), log_mean_exps(better + shift)):
            missed |= log_evidence >= math.log(2 / ALPHA)
    conditions = f"{law} values, mean {'swinging round' if swinging else 'of'} 0.2, difference {extra:g}"
    return Row("difference of means", conditions, runs, windows, int(missed.sum()), split)


def draw(rng: np.random.Generator, law: str, mean: float, shape: tuple[int, int]) -> Floats:
    """Draws values in [0, 1]: all or nothing; or a beta law; or mostly zeros, as seconds watched are."""
    if law == "all-or-nothing":
        return (rng.random(shape) < mean).astype(float)
    if law == "beta":
        return rng.beta(4 * mean, 4 * (1 - mean), shape)
    return np.asarray(rng.beta(1, 1, shape) * (rng.random(shape) < 2 * mean))


def equal_scores(runs: int, windows: int, split: str, *, swinging: bool) -> Row:
    """The e-process against equal histograms: runs in which it ever calls equal ones different."""
    rng, missed, centres = np.random.default_rng(5), 0, np.arange(27) - 13
    for _ in range(runs):
        evidence = drift.start(27)
        for window in range(windows):
            n_c = max(1, SPLITS[split](window / windows) // 10)
            law = bell(centres, 5 * math.sin(window / 7) if swinging else 0.0)
            own, stable = rng.multinomial(n_c, law), rng.multinomial(100 - n_c, law)
            buckets = (Buckets(int(n.sum()), tuple(n.tolist())) for n in (own, stable))
            evidence = drift.take(evidence, next(buckets), next(buckets), in_step=True)
            if drift.log_evidence_unequal(evidence) >= math.log(1 / ALPHA):
                missed += 1
                break
    conditions = f"{'swinging' if swinging else 'constant'} histogram of 27 buckets"
    return Row("equality of histograms", conditions, runs, windows, missed, split)


def index_bounds(runs: int, windows: int, shift: float, split: str) -> Row:
    """The confidence sequence of the stability index."""
    rng, missed, centres = np.random.default_rng(6), 0, np.arange(27) - 13
    laws, n_c = (bell(centres, shift), bell(centres, 0.0)), SPLITS[split](0.0)
    truth = drift.stability_index(*laws)
    for _ in range(runs):
        own, stable = np.zeros(27), np.zeros(27)
        for _ in range(windows):
            own += rng.multinomial(n_c, laws[0])
            stable += rng.multinomial(REQUESTS - n_c, laws[1])
            low, high = drift.index_bounds(own, stable, ALPHA / 2, ALPHA / 2)
            if not low <= truth <= high:
                missed += 1
                break
    return Row("stability index", f"index of {truth:.3f}, 27 buckets", runs, windows, missed, split)


def sticky_users(runs: int, windows: int, counted: str) -> Row:
    """The odds ratio where each of 400 users stays with an arm and clicks at a rate of their own, equal in both arms.

    A fifth of the users come in each window, with three requests. Counted are their first requests, or all of them.
    """
    rng, grid, users = np.random.default_rng(7), log_odds_grid(), 400
    own_rate = rng.beta(0.5, 2.0, (runs, users))
    candidate = rng.random((runs, users)) < 0.5
    known = np.zeros((runs, users), dtype=bool)
    sums, missed = np.zeros((runs, len(grid))), np.zeros(runs, dtype=bool)
    for _ in range(windows):
        here = rng.random((runs, users)) < 0.2
        if counted == "user":
            asked = (here & ~known).astype(np.int64)
            known |= here
        else:
            asked = 3 * here.astype(np.int64)
        clicks = rng.binomial(asked, own_rate)
        n = [np.where(arm, asked, 0).sum(1) for arm in (candidate, ~candidate)]
        x = [np.where(arm, clicks, 0).sum(1) for arm in (candidate, ~candidate)]
        sums += log_likelihoods(x[0], n[0], n[1], x[0] + x[1], grid)
        for evidence in (log_evidences_above(sums, grid, 0.0), log_evidences_below(sums, grid, 0.0)):
            missed |= evidence >= math.log(2 / ALPHA)
    note = "" if counted == "user" else "requests of one user hang together"
    conditions = f"400 users who stay with an arm, each {counted} counted"
    return Row("odds ratio", conditions, runs, windows, int(missed.sum()), "1:1", counted == "user", note)


def bell(centres: NDArray[np.int64], shift: float) -> Floats:
    """Returns the shares of a bell of scores, moved by a number of buckets."""
    weights = np.exp(-0.5 * ((centres - shift) / 4) ** 2)
    return np.asarray(weights / weights.sum())


def measurements(runs: int, windows: int) -> Iterator[Callable[[], Row]]:
    """Yields every measurement; the dear ones have fewer runs or windows."""
    constant, last = list(SPLITS)[:3], list(SPLITS)[3]
    for rate, split in itertools.product((0.0, 1e-4, 0.5), SPLITS):
        few = runs if rate < 0.5 else max(1, runs // 4)
        yield partial(odds_ratios, few, windows, rate, 1.0, split, swinging=False)
    for ratio, split in itertools.product((1.0, 2.0), SPLITS):
        yield partial(odds_ratios, runs, windows, 0.01, ratio, split, swinging=True)
    for rate in (0.0, 1e-4, 0.5):
        yield partial(rates, runs, windows, rate, swinging=False)
    yield partial(rates, runs, windows, 0.01, swinging=True)
    for (rate, extra), split in itertools.product(((0.0, 0.0), (1e-4, 0.0), (0.01, 0.005), (0.5, 0.0)), constant):
        yield partial(differences, runs, windows, rate, extra, split, swinging=False)
    yield partial(differences, runs, windows, 0.01, 0.0, "1:9", swinging=True)
    for rate, split in itertools.product((0.0, 1e-4, 0.01, 0.5), SPLITS):
        yield partial(harm_beyond, runs, windows, rate, split, swinging=rate == 0.01)
    for law, split in itertools.product(("all-or-nothing", "beta", "mostly zero"), constant):
        yield partial(mean_differences, runs, windows, law, 0.0, split, swinging=False)
    for extra in (0.0, 0.02):
        yield partial(mean_differences, runs, windows, "mostly zero", extra, last, swinging=True)
    few = max(1, runs // 5)
    for split in SPLITS:
        yield partial(equal_scores, few, windows, split, swinging=False)
    yield partial(equal_scores, few, windows, last, swinging=True)
    for counted in ("user", "request"):
        yield partial(sticky_users, few, windows, counted)
    for shift in (0.0, 1.2, 3.0):
        yield partial(index_bounds, max(1, runs // 20), max(1, windows // 5), shift, "1:9")


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the share of runs with a miss as Markdown, one line for all splits under the same conditions."""
    lines = [
        f"| bounds on | conditions | runs x windows | {' | '.join(SPLITS)} |",
        f"|---|---|---|{'---|' * len(SPLITS)}",
    ]
    grouped: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["sequence"], row["conditions"]), {})[row["split"] or next(iter(SPLITS))] = row
    for (sequence, conditions), by_split in grouped.items():
        some = next(iter(by_split.values()))
        shares = [f"{100 * by_split[split]['missed']:.2f} %" if split in by_split else "" for split in SPLITS]
        mark = "" if some["exact"] else " (not exact)"
        lines.append(
            f"| {sequence}{mark} | {conditions} | {some['runs']:,} x {some['windows']} | {' | '.join(shares)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--table", action="store_true", help="Markdown instead of JSON")
    options = parser.parse_args()
    rows, started = [], time.perf_counter()
    for measure in measurements(options.runs, options.windows):
        rows.append(measure().plain())
        print(f"{time.perf_counter() - started:7.1f} s  {rows[-1]}", file=sys.stderr, flush=True)
    print(table(rows) if options.table else json.dumps({"alpha": ALPHA, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
