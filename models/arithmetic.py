"""Sums whose order is fixed, so that a value does not depend on what else is computed in the same call."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def row_dots(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the dot product of each row of `left` [p, d] with the same row of `right`; float64 [p]."""
    products = np.ascontiguousarray(left * right)
    return np.asarray(np.add.reduce(products, axis=1), dtype=np.float64)


def fixed_matmul(values: NDArray[np.float64], weights: NDArray[Any]) -> NDArray[np.float64]:
    """Returns values [n, m] @ weights [m, d] in float64, adding terms in order of m, each row by itself."""
    total = np.zeros((len(values), weights.shape[1]))
    for column in range(values.shape[1]):
        total += values[:, column, None] * weights[column].astype(np.float64)
    return total
