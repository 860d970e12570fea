"""What a recurrent layer keeps of positions already read, for generation."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@final
@dataclass(slots=True)
class LayerState:
    """The state of each row, and what its convolution will read again; nothing before the first position."""

    state: Float[Tensor, "B H K O"] | None = None
    tail: Float[Tensor, "B w X"] | None = None

    def behind(self, x: Float[Tensor, "B T X"], is_read: Bool[Tensor, "B T"], reach: int) -> Float[Tensor, "B S X"]:
        """X behind the last `reach` positions of each row, which are kept for the next; padding is 0."""
        x = x.masked_fill(~is_read[..., None], 0.0)
        tail = x.new_zeros(len(x), reach, x.shape[2]) if self.tail is None else self.tail
        x = torch.cat([tail, x], 1)
        self.tail = x[:, x.shape[1] - reach :]
        return x

    def select(self, rows: Int[Tensor, " B"]) -> None:
        """Keeps these rows, in this order."""
        self.state = None if self.state is None else self.state[rows]
        self.tail = None if self.tail is None else self.tail[rows]
