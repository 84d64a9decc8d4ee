"""Which user gets which arm: a salted hash, the same in every process, and as few moves as possible.

BLAKE2b over salt, layer and user id gives 64 bits, uniform over users. The line of all 2^64 values is cut into
segments, one arm each. The stable arm holds whatever the others leave: an arm grows out of stable's segments and
shrinks back into them, so that no user changes arm who does not have to.

Tang, Agarwal, O'Brien and Meyer 2010 (layers); Kohavi, Tang and Xu 2020, chapter 14 (hashing with a salt).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.errors import UsageError

BUCKETS = 1 << 64
_DIGEST_BYTES = 8
_SUM_TOLERANCE = 1e-6
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_NAME_LENGTH = 128


def hash_prefix(salt: str, layer: str) -> bytes:
    """Returns what is hashed before a user id: salt and layer, each after its length in four bytes, big-endian."""
    parts = [text.encode("utf-8", "surrogatepass") for text in (salt, layer)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def bucket_of(prefix: bytes, user: str) -> int:
    """Returns a user's place in a layer, from 0 to 2^64 - 1.

    Args:
        prefix: From `hash_prefix`.
        user: The user's id, hashed as UTF-8.
    """
    digest = blake2b(prefix + user.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
    return int.from_bytes(digest, "big")


def buckets_of(prefix: bytes, users: Iterable[str]) -> NDArray[np.uint64]:
    """Returns `bucket_of` for many users, shape [users]."""
    digests = [
        blake2b(prefix + user.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest() for user in users
    ]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


@dataclass(frozen=True)
class Assignment:
    """Arms with their shares of the users of one layer.

    While there are at most two arms beside stable, each of them keeps every user that it has as long as its weight
    does not fall, whatever the other weights do. The same holds for k of them as long as none exceeds 100 / k percent.
    It cannot hold for every set of weights, since an assignment that remembers nothing must move more users than the
    weights differ by (Bavarian, Ghazi, Haramaty, Kamath, Rivest and Sudan 2020).

    Args:
        salt: Secret of the project and name of the experiment; another salt is another, independent assignment.
        layer: Users are split independently in each layer.
        arms: Percent of the users, by arm; they sum to 100. An arm that leaves the experiment stays at weight 0, since
            the number of arms decides where each one grows.
        stable: The arm that the others grow out of; the first one if not given. With two arms it makes no difference.

    Raises:
        UsageError: A name or a weight that cannot be, or weights that do not sum to 100.
    """

    salt: str
    layer: str
    arms: Mapping[str, float]
    stable: str | None = None
    _prefix: bytes = field(init=False, repr=False, compare=False)
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _owners: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self.arms, self.stable)
        stable = self.stable or next(iter(self.arms))
        starts, owners = _segments(self.arms, stable)
        object.__setattr__(self, "stable", stable)
        object.__setattr__(self, "_prefix", hash_prefix(self.salt, self.layer))
        object.__setattr__(self, "_starts", starts)
        object.__setattr__(self, "_owners", owners)

    def bucket(self, user: str) -> int:
        """Returns the user's place in the layer."""
        return bucket_of(self._prefix, user)

    def arm_at(self, bucket: int) -> str:
        """Returns the arm that holds a place in the layer."""
        return self._owners[bisect_right(self._starts, bucket) - 1]

    def arm_of(self, user: str) -> str:
        """Returns the user's arm."""
        return self.arm_at(bucket_of(self._prefix, user))

    def arms_of(self, users: Iterable[str]) -> NDArray[np.intp]:
        """Returns, for many users, the index of the arm in `arms`, shape [users]."""
        return self.arms_at(buckets_of(self._prefix, users))

    def arms_at(self, buckets: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Returns, for many places, the index of the arm in `arms`, shape as `buckets`."""
        position = {arm: index for index, arm in enumerate(self.arms)}
        owners = np.array([position[owner] for owner in self._owners], dtype=np.intp)
        starts = np.array(self._starts, dtype=np.uint64)
        return np.asarray(owners[np.searchsorted(starts, buckets, side="right") - 1])


def check_name(name: object, what: str) -> str:
    """Returns a name that fits into a header and a metric label.

    Raises:
        UsageError: It does not.
    """
    if isinstance(name, str) and 0 < len(name) <= _NAME_LENGTH and _NAME_CHARACTERS.issuperset(name):
        return name
    raise UsageError(
        f"{what} cannot be named {str(name)[:64]!r}",
        remedy=f"Use 1 to {_NAME_LENGTH} of the letters a-z, A-Z, digits, '.', '_' and '-'.",
    )


def _check(arms: Mapping[str, float], stable: str | None) -> None:
    if not arms:
        raise UsageError("an assignment needs at least one arm")
    for arm, weight in arms.items():
        check_name(arm, "an arm")
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not math.isfinite(weight) or not 0 <= weight <= 100:
            raise UsageError(f"the weight of arm {arm!r} is {weight!r}; it must be from 0 to 100 percent")
    total = math.fsum(arms.values())
    if abs(total - 100) > _SUM_TOLERANCE:
        raise UsageError(f"the weights of {', '.join(arms)} sum to {total:g}; they must sum to 100 percent")
    if stable is not None and stable not in arms:
        raise UsageError(f"stable is {stable!r}, which is none of the arms {', '.join(arms)}")


def _segments(arms: Mapping[str, float], stable: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Returns where each segment starts, ascending from 0, and whose it is.

    Each of the k arms beside stable, in the order of their names, has a lane of 1/k of the line, and takes it from its
    start. What exceeds the lane is taken from the ends of the other lanes. All that is left is stable's.
    """
    others = sorted(arm for arm in arms if arm != stable)
    if not others:
        return (0,), (stable,)
    edges = [index * BUCKETS // len(others) for index in range(len(others) + 1)]
    widths = [int(Fraction(arms[arm]) * BUCKETS / 100) for arm in others]
    free, taken = [], []
    for index, arm in enumerate(others):
        own = min(widths[index], edges[index + 1] - edges[index])
        taken.append((edges[index], edges[index] + own, arm))
        free.append([edges[index] + own, edges[index + 1]])
        widths[index] -= own
    for arm, missing in zip(others, widths, strict=True):
        for gap in free:
            part = min(missing, gap[1] - gap[0])
            taken.append((gap[1] - part, gap[1], arm))
            gap[1] -= part
            missing -= part
    return _joined(sorted(taken), stable, has_share=arms[stable] > 0)


def _joined(
    taken: list[tuple[int, int, str]], stable: str, *, has_share: bool
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Gives the gaps to stable; where it has no share, they are what rounding left, and go to a neighbour."""
    pieces: list[tuple[int, str]] = []
    end = 0
    for start, stop, arm in [*taken, (BUCKETS, BUCKETS, stable)]:
        if start > end:
            pieces.append((end, stable if has_share else pieces[-1][1] if pieces else arm))
        if stop > start:
            pieces.append((start, arm))
        end = max(end, stop)
    merged = [piece for index, piece in enumerate(pieces) if index == 0 or piece[1] != pieces[index - 1][1]]
    return tuple(start for start, _ in merged), tuple(arm for _, arm in merged)
