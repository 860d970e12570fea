"""Keys and values of positions already read, for generation."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetahat.model.config import BlockConfig


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

    def take(self, rows: Int[Tensor, " n"]) -> None:
        """Keeps these rows, in this order; one may be kept twice."""
        self.keys, self.values = self.keys[rows], self.values[rows]


@final
class Cache:
    """One LayerCache a layer."""

    def __init__(self, config: BlockConfig, num_rows: int, capacity: int, like: Float[Tensor, "..."]) -> None:
        shape = (num_rows, config.num_kv_heads, 0, config.head_width)
        empty = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.capacity = capacity
        self.layers = [LayerCache(empty, capacity) for _ in range(config.num_layers)]

    def take(self, rows: Int[Tensor, " n"]) -> None:
        """Keeps these rows, in this order; one may be kept twice."""
        for layer in self.layers:
            layer.take(rows)

    @property
    def length(self) -> int:
        """How many positions have been read."""
        return self.layers[0].length
