"""Keys, values and states of positions already read, for generation."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetahat.model.attention.kernels import Past
from thetahat.model.config import AttentionMixer, TransformerConfig
from thetahat.model.recurrence.state import LayerState


@final
class LayerCache:
    """The keys and values of one layer: room for `capacity` positions, filled from the left.

    With a `distance` only the last so many are kept: no later position sees farther.
    """

    def __init__(self, like: Float[Tensor, "..."], capacity: int, distance: int | None = None) -> None:
        self.distance = None if distance is None or distance >= capacity else distance
        self.room = self.distance or capacity
        self.keys = self.values = like.new_zeros(0, 0, 0, 0)  # until there are some
        self.length = 0  # positions kept

    def append(
        self, k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """Adds new positions and returns them behind those that are kept."""
        if self.length == 0:
            rows, groups, _, width = k.shape
            self.keys, self.values = (self.keys.new_zeros(rows, groups, self.room, width) for _ in range(2))
        if self.distance is not None:
            return self._append_and_forget(k, v, self.distance)
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _append_and_forget(
        self, k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"], distance: int
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        keys = torch.cat([self.keys[:, :, : self.length], k], dim=2)
        values = torch.cat([self.values[:, :, : self.length], v], dim=2)
        self.length = min(keys.shape[2], distance)
        self.keys[:, :, : self.length] = keys[:, :, -self.length :]
        self.values[:, :, : self.length] = values[:, :, -self.length :]
        return keys, values

    def select(self, rows: Int[Tensor, " B"]) -> None:
        """Keeps these rows, in this order."""
        if self.length:
            self.keys, self.values = self.keys[rows], self.values[rows]


@final
class Cache:
    """What each layer keeps, and the positions that were read.

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
        empty = torch.empty(0, dtype=like.dtype, device=like.device)
        self.capacity = capacity
        self.piece = piece
        self.position = torch.zeros(num_rows, capacity, dtype=torch.int64, device=like.device)
        self.length = 0  # positions read
        self.smear = LayerState()  # the embeddings that were read last
        mixers = map(config.mixer, range(config.num_layers))
        self.layers = [
            LayerCache(empty, capacity, mixer.distance) if isinstance(mixer, AttentionMixer) else LayerState()
            for mixer in mixers
        ]

    def past(self, distance: int | None) -> Past:
        """What was read before and is still kept by the layers that see so far."""
        first = 0 if distance is None else max(self.length - distance, 0)
        piece = None if self.piece is None else self.piece[:, first : self.length]
        return Past(self.position[:, first : self.length], piece)

    def add(self, position: Int[Tensor, "B T"]) -> None:
        """Notes positions that all layers have read."""
        end = self.length + position.shape[1]
        self.position[:, self.length : end] = position
        self.length = end

    def select(self, rows: Int[Tensor, " B"]) -> None:
        """Keeps these rows, in this order; one may be kept several times."""
        for layer in (self.smear, *self.layers):
            layer.select(rows)
        self.position = self.position[rows]
        self.piece = None if self.piece is None else self.piece[rows]
