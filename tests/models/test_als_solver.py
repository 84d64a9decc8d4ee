"""A half-step of ALS solves the normal equations of every row, by whichever of its ways."""

from __future__ import annotations

import numpy as np
import pytest

from slipway.models.matrix_factorization.solver import HalfStep, History, single_threaded_blas


@pytest.mark.parametrize("with_prior", [False, True])
def test_every_row_solves_its_normal_equations(with_prior: bool) -> None:
    generator = np.random.default_rng(0)
    n_rows, n_others, factors, w0 = 30, 200, 12, 0.1
    # Histories from none to many times the number of factors take every path.
    lengths = np.concatenate([[0, 0, 1, 2], generator.integers(3, 100, n_rows - 4)])
    rows = np.repeat(np.arange(n_rows), lengths)
    others = np.concatenate([generator.choice(n_others, length, replace=False) for length in lengths]).astype(np.int64)
    confidence = generator.uniform(0.5, 3, len(rows)).astype(np.float32)
    strength = generator.uniform(0.5, 5, n_rows)
    other_factors = generator.normal(size=(n_others, factors)).astype(np.float32)
    prior = generator.normal(size=(n_rows, factors)).astype(np.float32) if with_prior else None
    step = HalfStep(History.from_pairs(rows, others, confidence, n_rows=n_rows), strength, factors)
    with single_threaded_blas() as pool:
        solved = step.solve(other_factors, w0, prior, pool)

    wide = other_factors.astype(np.float64)
    for row in range(n_rows):
        mine = rows == row
        history, weight = wide[others[mine]], confidence[mine].astype(np.float64)
        system = w0 * wide.T @ wide + (history * weight[:, None]).T @ history + strength[row] * np.eye(factors)
        right = weight @ history + (strength[row] * prior[row] if prior is not None else 0)
        np.testing.assert_allclose(solved[row], np.linalg.solve(system, right), rtol=2e-3, atol=2e-4)
