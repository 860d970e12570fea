"""What a recurrent layer keeps of positions already read, for generation."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor


@final
@dataclass(slots=True)
class LayerState:
    """The state of each row, and what its convolution will read again; nothing before the first position."""

    state: Float[Tensor, "B H K O"] | None = None
    tail: Float[Tensor, "B w X"] | None = None

    def select(self, rows: Int[Tensor, " B"]) -> None:
        """Keeps these rows, in this order."""
        self.state = None if self.state is None else self.state[rows]
        self.tail = None if self.tail is None else self.tail[rows]
