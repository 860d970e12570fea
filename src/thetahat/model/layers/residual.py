"""How what a block computes is added to the residual stream."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetahat.model.config import LearnedScaleConfig, SumConfig, TransformerConfig
from thetahat.model.law import Constant, Law


@final
class Sum(nn.Module):
    r"""$x + s\,y$ for a branch's output y and a constant s."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return torch.add(x, y, alpha=self.scale)

    if TYPE_CHECKING:
        __call__ = forward


@final
class LearnedScale(nn.Module):
    r"""$x + g \odot y$ for a branch's output y: g has D numbers, or one.

    LayerScale: Touvron et al., Going Deeper with Image Transformers, 2021 (arXiv 2103.17239). One number that begins at
    0: Bachlechner et al., ReZero Is All You Need, 2020 (arXiv 2003.04887).
    """

    def __init__(self, num_scales: int, begins: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((num_scales,), begins))
        self.laws: Mapping[str, Law] = {"gain": Law("vectors", Constant(begins))}

    def forward(self, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return x + self.gain * y

    if TYPE_CHECKING:
        __call__ = forward


def residual_of(config: TransformerConfig) -> Sum | LearnedScale:
    """How one branch of a block is added."""
    match config.residual:
        case SumConfig():
            return Sum(config.residual.scale)
        case LearnedScaleConfig():
            return LearnedScale(config.width if config.residual.per == "number" else 1, config.residual.begins)
