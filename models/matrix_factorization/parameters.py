"""Parameters of matrix factorisation."""

from __future__ import annotations

from pydantic import Field

from slipway.models.parameters import Parameters


class MatrixFactorizationParameters(Parameters):
    """iALS in the parametrisation of Rendle et al. 2022.

    A row with n interactions is regularised by `regularization * (n + unobserved_weight * others) ** exponent`, where
    `others` is the number of rows on the other side. The confidence of an interaction is `1 + alpha * weight`.
    `feature_regularization` is the ridge of the regression of user factors on features, in units of users.
    """

    factors: int = Field(64, ge=1, le=4096)
    epochs: int = Field(12, ge=1, le=10_000)
    unobserved_weight: float = Field(0.1, ge=0)
    regularization: float = Field(0.003, gt=0)
    regularization_exponent: float = Field(1.0, ge=0, le=2)
    standard_deviation: float = Field(0.1, gt=0)
    alpha: float = Field(0.0, ge=0)
    feature_regularization: float = Field(100.0, gt=0)
