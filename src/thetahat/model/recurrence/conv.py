"""A short convolution over the positions before."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from thetahat.model.law import BIAS, FILTER, Law
from thetahat.model.recurrence.chunks import Chunks
from thetahat.model.recurrence.state import LayerState


@final
class ShortConv(nn.Module):
    r"""$\mathrm{silu}\left(\sum_{j=0}^{R} w_j x_{t-R+j} + b\right)$ for each channel, from the beginning of a piece."""

    laws: ClassVar[Mapping[str, Law]] = {"weight": FILTER, "bias": BIAS}

    def __init__(self, width: int, length: int, *, has_bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, length))
        self.bias = nn.Parameter(torch.empty(width)) if has_bias else None

    def forward(self, x: Float[Tensor, "B T X"], chunks: Chunks, state: LayerState | None) -> Float[Tensor, "U W X"]:
        reach = self.weight.shape[1] - 1
        if state is not None:
            x = state.behind(x, chunks.is_read, reach)
        x = chunks.lay_windows(x)
        length = x.shape[1] - reach
        y = self.weight[:, 0] * x[:, :length]
        for j in range(1, reach + 1):
            y = y + self.weight[:, j] * x[:, j : j + length]
        return silu(y if self.bias is None else y + self.bias)

    if TYPE_CHECKING:
        __call__ = forward
