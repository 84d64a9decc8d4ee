"""Parameters of neural collaborative filtering."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from slipway.models.parameters import Parameters


class NeuralParameters(Parameters):
    """NeuMF (He et al. 2017). `hidden` are the widths of the layered part; `negatives` are drawn per interaction.

    `unknown_share` of the users in a batch are taken for unknown where the model reads features, so that it learns to
    answer from features alone.
    """

    factors: int = Field(32, ge=1, le=1024)
    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field((64, 32), min_length=1, max_length=8)
    epochs: int = Field(10, ge=1, le=10_000)
    batch_size: int = Field(4096, ge=1)
    learning_rate: float = Field(0.003, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    negatives: int = Field(8, ge=1, le=1000)
    unknown_share: float = Field(0.05, ge=0, le=0.9)
