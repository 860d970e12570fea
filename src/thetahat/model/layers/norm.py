"""Normalisation of states: by their root mean square, or by mean and variance."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from thetahat.model.config import LayerNormConfig, RMSNormConfig, TransformerConfig
from thetahat.model.law import BIAS, GAIN, OFFSET, Law


@final
class RMSNorm(nn.Module):
    r"""$y = g \odot x \,/\, \sqrt{\tfrac{1}{D}\sum_d x_d^2 + \epsilon}$, in at least float32; float64 stays float64.

    Zhang & Sennrich, Root Mean Square Layer Normalization, 2019 (arXiv 1910.07467).
    """

    laws: ClassVar[Mapping[str, Law]] = {"gain": GAIN}

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "*axes D"]) -> Float[Tensor, "*axes D"]:
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        return functional.rms_norm(precise, self.gain.shape, self.gain, self.epsilon).to(x.dtype)

    if TYPE_CHECKING:
        __call__ = forward


@final
class RMSNormAroundOne(nn.Module):
    r"""The same with the gain $1 + g$: g begins at 0 (Gemma Team, 2024, arXiv 2403.08295).

    g is what is kept and updated: $1 + g - 1$ would not be g to the last bit.
    """

    laws: ClassVar[Mapping[str, Law]] = {"gain": OFFSET}

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(width))
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "*axes D"]) -> Float[Tensor, "*axes D"]:
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        return functional.rms_norm(precise, self.gain.shape, 1 + self.gain, self.epsilon).to(x.dtype)

    if TYPE_CHECKING:
        __call__ = forward


@final
class LayerNorm(nn.Module):
    r"""$y = g \odot (x - \mu) \,/\, \sqrt{\sigma^2 + \epsilon} + b$, in at least float32; float64 stays float64.

    $\mu$ and $\sigma^2$ are the mean and the (biased) variance over the width; without bias b = 0.
    Ba et al., Layer Normalization, 2016 (arXiv 1607.06450).
    """

    laws: ClassVar[Mapping[str, Law]] = {"gain": GAIN, "bias": BIAS}

    def __init__(self, width: int, epsilon: float, *, has_bias: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if has_bias else None
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "*axes D"]) -> Float[Tensor, "*axes D"]:
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        return functional.layer_norm(precise, self.gain.shape, self.gain, self.bias, self.epsilon).to(x.dtype)

    if TYPE_CHECKING:
        __call__ = forward


def norm_of(
    config: TransformerConfig, width: int, epsilon: float | None = None
) -> RMSNorm | RMSNormAroundOne | LayerNorm:
    """A norm of the model's kind, over so many numbers; of the model's epsilon where none is given."""
    epsilon = config.norm_epsilon if epsilon is None else epsilon
    match config.norm:
        case RMSNormConfig(adds_one=False):
            return RMSNorm(width, epsilon)
        case RMSNormConfig():
            return RMSNormAroundOne(width, epsilon)
        case LayerNormConfig():
            return LayerNorm(width, epsilon, has_bias=config.norm.has_bias)
