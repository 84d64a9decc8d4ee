"""Together, several processes draw what one draws; each draws for its own users only."""

from __future__ import annotations

import numpy as np
import pytest

from slipway.models.neural.sampling import EpochSampler

N_USERS, N_ITEMS, NEGATIVES = 40, 30, 5


def sampler(pairs: np.ndarray, **where: int) -> EpochSampler:
    return EpochSampler(
        pairs, n_items=N_ITEMS, negatives=NEGATIVES, unknown_share=0.3, seed=9, **({"epoch": 2} | where)
    )


@pytest.fixture
def pairs() -> np.ndarray:
    return np.sort(np.random.default_rng(1).choice(N_USERS * N_ITEMS, 300, replace=False)).astype(np.int64)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_shares_of_a_batch_are_the_batch(pairs: np.ndarray, size: int) -> None:
    whole = sampler(pairs).share(64, 128)
    shares = [sampler(pairs, rank=rank, size=size).share(64, 128) for rank in range(size)]
    for rank, share in enumerate(shares):
        assert (share.users % size == rank).all()
    together = sorted((*row, *hidden) for share in shares for row, hidden in _rows(share))
    assert together == sorted((*row, *hidden) for row, hidden in _rows(whole))
    assert len(together) == 64


def _rows(share):  # type: ignore[no-untyped-def]
    columns = np.concatenate([share.users[:, None], share.items, share.labels], axis=1)
    return zip(columns.tolist(), share.hidden[:, None].tolist(), strict=True)


def test_draws_of_a_batch_do_not_depend_on_earlier_batches_and_differ_by_epoch(pairs: np.ndarray) -> None:
    one = sampler(pairs)
    one.share(0, 64)
    again = sampler(pairs).share(64, 128)
    assert (one.share(64, 128).items == again.items).all()
    assert (sampler(pairs, epoch=3).share(64, 128).items != again.items).any()


def test_every_pair_comes_once_an_epoch_and_what_a_user_took_is_never_a_negative(pairs: np.ndarray) -> None:
    share = sampler(pairs).share(0, len(pairs))
    assert sorted((share.users * N_ITEMS + share.items[:, 0]).tolist()) == pairs.tolist()
    taken = np.isin(share.users[:, None] * N_ITEMS + share.items, pairs)
    assert (share.labels == taken).all()
    drawn = share.items[:, 1:].ravel()
    assert drawn.min() == 0
    assert drawn.max() == N_ITEMS - 1
    assert abs(drawn.mean() - (N_ITEMS - 1) / 2) < 1
    assert 0.2 < share.hidden.mean() < 0.4
