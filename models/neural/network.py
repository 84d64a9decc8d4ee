"""The network in PyTorch, and what of it goes into a bundle. Imported by training only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding


class Network(nn.Module):  # type: ignore[misc]
    """A factorised and a layered part over two sets of embeddings, summed (NeuMF), with a bias of the item.

    The first layer is a sum of one product with the user, one with the features and one with the item: the same as a
    layer over their concatenation, but each can be computed once for all items.

    Args:
        n_users: Known users; one more row stands for users without history.
        n_items: Items.
        n_features: Standardised features of the user.
        factors: Width of the embeddings.
        hidden: Widths of the layers.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_features: int,
        factors: int,
        hidden: Sequence[int],
        generator: np.random.Generator,
    ) -> None:
        super().__init__()

        def normal(rows: int, columns: int, deviation: float) -> nn.Parameter:
            values = generator.normal(0, deviation, (rows, columns)).astype(np.float32)
            return nn.Parameter(torch.from_numpy(values))

        self.product_users = normal(n_users + 1, factors, 0.1)
        self.product_items = normal(n_items, factors, 0.1)
        self.layer_users = normal(n_users + 1, factors, 0.1)
        self.layer_items = normal(n_items, factors, 0.1)
        self.item_bias = nn.Parameter(torch.zeros(n_items, 1))
        first = hidden[0]
        self.first_user = normal(factors, first, (2 / (2 * factors)) ** 0.5)
        self.first_item = normal(factors, first, (2 / (2 * factors)) ** 0.5)
        self.first_features = normal(n_features, first, 0.05)
        self.first_bias = nn.Parameter(torch.zeros(first))
        widths = [*hidden, 1]
        pairs = list(pairwise(widths))
        self.weights = nn.ParameterList(normal(inner, outer, (2 / inner) ** 0.5) for inner, outer in pairs)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(outer)) for _, outer in pairs)

    def forward(self, users: Tensor, items: Tensor, features: Tensor) -> Tensor:
        """Returns the logits of pairs; users, items int64 [b], features float32 [b, n_features]."""
        # embedding() and not indexing: its gradient is deterministic and much faster.
        product = (embedding(users, self.product_users) * embedding(items, self.product_items)).sum(dim=1)
        hidden = embedding(users, self.layer_users) @ self.first_user
        hidden = hidden + embedding(items, self.layer_items) @ self.first_item
        hidden = torch.relu(hidden + features @ self.first_features + self.first_bias)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = hidden @ weight + bias
            if layer + 1 < len(self.weights):
                hidden = torch.relu(hidden)
        logits: Tensor = product + hidden[:, 0] + embedding(items, self.item_bias)[:, 0]
        return logits

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def serving_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Returns the arrays by which `NeuralCollaborativeFiltering` scores, the first layer already applied."""
        arrays = {
            "product_users": self.product_users,
            "product_items": self.product_items,
            "first_users": self.layer_users @ self.first_user + self.first_bias,
            "first_items": self.layer_items @ self.first_item,
            "first_features": self.first_features,
            "item_bias": self.item_bias[:, 0],
        }
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            arrays[f"weight_{layer}"], arrays[f"bias_{layer}"] = weight, bias
        return {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in arrays.items()}
