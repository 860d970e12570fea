"""Keys and values of positions already read, for generation."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetahat.model.config import TransformerConfig


@final
class LayerCache:
    """The keys and values of one layer: room for `capacity` positions, filled from the left."""

    def __init__(self, like: Float[Tensor, "B G T K"], capacity: int) -> None:
        rows, groups, _, width = like.shape
        self.keys = like.new_zeros(rows, groups, capacity, width)
        self.values = like.new_zeros(rows, groups, capacity, width)
        self.length = 0

    def append(
        self, k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """Adds new positions and returns all of them."""
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def select(self, rows: Int[Tensor, " B"]) -> None:
        """Keeps these rows, in this order."""
        self.keys, self.values = self.keys[rows], self.values[rows]


@final
class Cache:
    """One LayerCache a layer.

    `piece` says of every place that will ever be read whose it is, where rows are padded; without it all is seen.
    """

    def __init__(
        self,
        config: TransformerConfig,
        num_rows: int,
        capacity: int,
        like: Float[Tensor, "..."],
        piece: Int[Tensor, "B S"] | None = None,
    ) -> None:
        shape = (num_rows, config.num_kv_heads, 0, config.head_width)
        empty = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.capacity = capacity
        self.piece = piece
        self.layers = [LayerCache(empty, capacity) for _ in range(config.num_layers)]

    @property
    def length(self) -> int:
        """How many positions have been read."""
        return self.layers[0].length

    @property
    def seen(self) -> Int[Tensor, "B S"] | None:
        """The pieces of the positions that have been read, where rows are padded."""
        return None if self.piece is None else self.piece[:, : self.length]

    def select(self, rows: Int[Tensor, " B"]) -> None:
        """Keeps these rows, in this order; one may be kept several times."""
        for layer in self.layers:
            layer.select(rows)
        self.piece = None if self.piece is None else self.piece[rows]
