"""Keys, values and states of positions already read, for generation."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetahat.model.attention.kernels import Past
from thetahat.model.config import AttendingMixer, Mixer, TransformerConfig
from thetahat.model.recurrence.state import LayerState

NOBODY = -2
"""The piece of what no position sees, padding neither."""


@final
class LayerCache:
    """The keys and values of one layer: room for `capacity` positions, filled from the left.

    With a `distance` only the last so many are kept: no later position sees farther. In front of them stand the first
    `num_global` of each text, whose columns begin at `first`, as soon as others are left out.
    """

    def __init__(
        self,
        like: Float[Tensor, "..."],
        capacity: int,
        distance: int | None = None,
        num_global: int = 0,
        first: Int[Tensor, " B"] | None = None,
    ) -> None:
        self.distance = None if distance is None or distance + num_global >= capacity else distance
        self.room = self.distance or capacity
        self.keys = self.values = like.new_zeros(0, 0, 0, 0)  # until there are some
        self.length = 0  # positions kept, but for those in front
        self.num_global, self.first = num_global, first
        self.num_read = 0
        self.global_keys = self.global_values = self.keys

    def append(
        self, k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T O"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S O"]]:
        """Adds new positions and returns them behind those that are kept."""
        if self.length == 0:
            front = self.num_global if self.distance else 0
            self.keys, self.values = (self.keys.new_zeros(*x.shape[:2], self.room, x.shape[3]) for x in (k, v))
            self.global_keys, self.global_values = (
                self.keys.new_zeros(*x.shape[:2], front, x.shape[3]) for x in (k, v)
            )
        if self.distance is not None:
            return self._append_and_forget(k, v, self.distance)
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _append_and_forget(
        self, k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T O"], distance: int
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S O"]]:
        keys = torch.cat([self.keys[:, :, : self.length], k], dim=2)
        values = torch.cat([self.values[:, :, : self.length], v], dim=2)
        in_front = min(self.num_global, self.num_read - self.length)
        seen = keys, values
        if in_front:
            seen = (
                torch.cat([self.global_keys[:, :, :in_front], keys], dim=2),
                torch.cat([self.global_values[:, :, :in_front], values], dim=2),
            )
        if self.num_global:
            self.global_keys = self._with_new(self.global_keys, k)
            self.global_values = self._with_new(self.global_values, v)
        self.num_read += k.shape[2]
        self.length = min(keys.shape[2], distance)
        self.keys[:, :, : self.length] = keys[:, :, -self.length :]
        self.values[:, :, : self.length] = values[:, :, -self.length :]
        return seen

    def _with_new(self, known: Float[Tensor, "B G S K"], new: Float[Tensor, "B G T K"]) -> Float[Tensor, "B G S K"]:
        """What stands in front, with those of its columns that are new."""
        column = torch.arange(self.num_global, device=new.device).expand(len(new), -1)
        column = column - self.num_read + (0 if self.first is None else self.first[:, None])
        is_new = ((column >= 0) & (column < new.shape[2]))[:, None, :, None]
        column = column.clamp(0, new.shape[2] - 1)[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3])
        return torch.where(is_new, new.gather(2, column), known)

    def select(self, rows: Int[Tensor, " B"]) -> None:
        """Keeps these rows, in this order."""
        if self.length:
            self.keys, self.values = self.keys[rows], self.values[rows]
        if self.global_keys.shape[2]:
            self.global_keys, self.global_values = self.global_keys[rows], self.global_values[rows]
        self.first = None if self.first is None else self.first[rows]


@final
class Cache:
    """What each layer keeps, and the positions that were read.

    `piece` says of every place that will ever be read whose it is, where rows are padded on their left; without it all
    is seen.
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
        self.first = None if piece is None else (piece < 0).sum(1)  # the column of each row's first position
        mixers = map(config.mixer, range(config.num_layers))
        self.layers = [self._layer(mixer, empty) for mixer in mixers]

    def _layer(self, mixer: Mixer, empty: Tensor) -> LayerCache | LayerState:
        if not isinstance(mixer, AttendingMixer):
            return LayerState()
        return LayerCache(empty, self.capacity, mixer.distance, mixer.num_global, self.first)

    def past(self, distance: int | None, num_global: int = 0) -> Past:
        """What was read before and is still kept by the layers that see so far, in the order in which they have it."""
        is_short = distance is not None and distance + num_global < self.capacity
        start = max(self.length - distance, 0) if distance is not None and is_short else 0
        position = self.position[:, start : self.length]
        piece = None if self.piece is None else self.piece[:, start : self.length]
        if in_front := min(num_global, start):
            place = torch.arange(in_front, device=position.device).expand(len(position), -1)
            position = torch.cat([place, position], dim=1)
            if piece is not None and self.first is not None:
                is_left_out = place + self.first[:, None] < start  # else it stands behind
                piece = torch.cat([torch.where(is_left_out, 0, NOBODY), piece], dim=1)
        return Past(position, piece)

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
        self.first = None if self.first is None else self.first[rows]
