"""The network in PyTorch, and what of it goes into a bundle. Imported by training only.

It is in two parts. The embeddings of users are many and each belongs to the pairs of its user alone: where several
processes train, each holds those of its own users. All the rest is small, is touched by every batch, and is held by
every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding

USER_TABLES = ("product_users", "layer_users")


class UserTables(nn.Module):  # type: ignore[misc]
    """The two embeddings of this process's users: row `user // size` for each user with `user % size == rank`.

    Args:
        product: float32 [n, factors], the initial values of all users.
        layer: Likewise.
        rank: Of this process.
        size: Processes.
    """

    def __init__(self, product: NDArray[np.float32], layer: NDArray[np.float32], rank: int, size: int) -> None:
        super().__init__()
        self._size = size
        self.product_users = nn.Parameter(torch.from_numpy(product[rank::size].copy()))
        self.layer_users = nn.Parameter(torch.from_numpy(layer[rank::size].copy()))

    def forward(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both embeddings [b, factors] of users int64 [b], all of them this process's."""
        rows = users // self._size
        # embedding() and not indexing: its gradient is deterministic and much faster.
        return embedding(rows, self.product_users), embedding(rows, self.layer_users)


class Network(nn.Module):  # type: ignore[misc]
    """A factorised and a layered part over two sets of embeddings, summed (NeuMF), with a bias of the item.

    The first layer is a sum of one product with the user, one with the features and one with the item: the same as a
    layer over their concatenation, but each can be computed once for all items.

    Args:
        initial: From `initial_values`.
    """

    def __init__(self, initial: Mapping[str, NDArray[np.float32]]) -> None:
        super().__init__()
        for name in ("product_items", "layer_items", "first_user", "first_item", "first_features"):
            self.register_parameter(name, nn.Parameter(torch.from_numpy(initial[name])))
        # Stand for a user without history.
        self.unknown_product = nn.Parameter(torch.from_numpy(initial["unknown_product"]))
        self.unknown_layer = nn.Parameter(torch.from_numpy(initial["unknown_layer"]))
        self.item_bias = nn.Parameter(torch.zeros(len(initial["product_items"]), 1))
        self.first_bias = nn.Parameter(torch.zeros(initial["first_user"].shape[1]))
        layers = sum(name.startswith("weight_") for name in initial)
        weights = [torch.from_numpy(initial[f"weight_{layer}"]) for layer in range(layers)]
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(weight.shape[1])) for weight in weights)

    def forward(self, product: Tensor, layer: Tensor, hidden_users: Tensor, items: Tensor, features: Tensor) -> Tensor:
        """Returns the logits of pairs.

        Args:
            product: float32 [b, factors], the users' embeddings.
            layer: Likewise.
            hidden_users: bool [b, 1], users to take for unknown.
            items: int64 [b].
            features: float32 [b, n_features] of the users.
        """
        product = torch.where(hidden_users, self.unknown_product, product)
        layer = torch.where(hidden_users, self.unknown_layer, layer)
        factorised = (product * embedding(items, self.product_items)).sum(dim=1)
        hidden = layer @ self.first_user + embedding(items, self.layer_items) @ self.first_item
        hidden = torch.relu(hidden + features @ self.first_features + self.first_bias)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = hidden @ weight + bias
            if number + 1 < len(self.weights):
                hidden = torch.relu(hidden)
        logits: Tensor = factorised + hidden[:, 0] + embedding(items, self.item_bias)[:, 0]
        return logits

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def serving_arrays(self, users: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Returns the arrays by which `NeuralCollaborativeFiltering` scores, the first layer already applied.

        Args:
            users: USER_TABLES, with all users.
        """
        product, layer = (torch.from_numpy(users[name]).to(self.first_bias.device) for name in USER_TABLES)
        arrays = {
            "product_users": torch.cat([product, self.unknown_product]),
            "product_items": self.product_items,
            "first_users": torch.cat([layer, self.unknown_layer]) @ self.first_user + self.first_bias,
            "first_items": self.layer_items @ self.first_item,
            "first_features": self.first_features,
            "item_bias": self.item_bias[:, 0],
        }
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            arrays[f"weight_{number}"], arrays[f"bias_{number}"] = weight, bias
        return {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in arrays.items()}


def initial_values(
    n_users: int, n_items: int, n_features: int, factors: int, hidden: Sequence[int], generator: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Draws the initial weights of `UserTables` and `Network`; those that begin at zero are not among them.

    Args:
        n_users: Known users.
        n_items: Items.
        n_features: Standardised features of the user.
        factors: Width of the embeddings.
        hidden: Widths of the layers.
        generator: Source of the draws.
    """

    def normal(rows: int, columns: int, deviation: float) -> NDArray[np.float32]:
        return generator.normal(0, deviation, (rows, columns)).astype(np.float32)

    values = {"product_users": normal(n_users + 1, factors, 0.1), "product_items": normal(n_items, factors, 0.1)}
    values |= {"layer_users": normal(n_users + 1, factors, 0.1), "layer_items": normal(n_items, factors, 0.1)}
    values["first_user"] = normal(factors, hidden[0], (2 / (2 * factors)) ** 0.5)
    values["first_item"] = normal(factors, hidden[0], (2 / (2 * factors)) ** 0.5)
    values["first_features"] = normal(n_features, hidden[0], 0.05)
    for layer, (inner, outer) in enumerate(pairwise([*hidden, 1])):
        values[f"weight_{layer}"] = normal(inner, outer, (2 / inner) ** 0.5)
    for name, unknown in zip(USER_TABLES, ("unknown_product", "unknown_layer"), strict=True):
        values[unknown] = values[name][n_users:].copy()
        values[name] = values[name][:n_users]
    return values
