"""A short convolution over the positions before."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import silu

from thetahat.model.law import BIAS, FILTER, Law
from thetahat.model.recurrence.chunks import Chunks
from thetahat.model.recurrence.state import LayerState


class _Convolve(Function):
    r"""$\sum_j w_j x_{t-R+j}$ in one buffer; its gradient, too, where autograd would fill one for each j."""

    @staticmethod
    def forward(x: Float[Tensor, "U w X"], weight: Float[Tensor, "X r"]) -> Float[Tensor, "U W X"]:
        length = x.shape[1] - weight.shape[1] + 1
        y = weight[:, 0] * x[:, :length]
        for j in range(1, weight.shape[1]):
            y.addcmul_(weight[:, j], x[:, j : j + length])
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (x, weight), (of_y,) = cast(tuple[Tensor, Tensor], ctx.saved_tensors), gradients
        length = of_y.shape[1]
        of_weight: list[Tensor] = []
        of_x = of_y.new_zeros(x.shape)
        for j in range(weight.shape[1]):
            of_x[:, j : j + length].addcmul_(weight[:, j], of_y)
            of_weight.append((of_y * x[:, j : j + length]).sum((0, 1)))
        return of_x.to(x.dtype), torch.stack(of_weight, 1)


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
        y = cast(Callable[..., Tensor], _Convolve.apply)(chunks.lay_windows(x), self.weight)
        return silu(y if self.bias is None else y + self.bias)

    if TYPE_CHECKING:
        __call__ = forward
