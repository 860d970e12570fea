"""How what a block computes is added to the residual stream."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetahat.model.config import DeepNormConfig, EncoderDecoderConfig, LearnedScaleConfig, SumConfig, TransformerConfig
from thetahat.model.law import ZERO_WRITER, Constant, FanIn, Law


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
class WeightedSum(nn.Module):
    r"""$\alpha\,x + y$ for a branch's output y (DeepNorm)."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return torch.add(y, x, alpha=self.weight)

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


def residual_of(config: TransformerConfig, *, reads_source: bool) -> Sum | WeightedSum | LearnedScale:
    """How one branch of a block is added."""
    match config.residual:
        case SumConfig():
            return Sum(config.residual.scale)
        case LearnedScaleConfig():
            return LearnedScale(config.width if config.residual.per == "number" else 1, config.residual.begins)
        case DeepNormConfig():
            return WeightedSum(deepnorm(config, reads_source=reads_source)[0])


def deepnorm(config: TransformerConfig, *, reads_source: bool) -> tuple[float, float]:
    r"""$\alpha$, which multiplies the residual stream, and $\beta$, which multiplies matrices at the beginning.

    Wang et al., DeepNet: Scaling Transformers to 1,000 Layers, 2022 (arXiv 2203.00555), figure 2: of M layers of a
    decoder or of an encoder alone, $(2M)^{1/4}$ and $(8M)^{-1/4}$; of a decoder that reads a source, $(3M)^{1/4}$ and
    $(12M)^{-1/4}$, and of the N layers of its encoder $0.81\,(N^4 M)^{1/16}$ and $0.87\,(N^4 M)^{-1/16}$.
    """
    depth = config.num_layers
    if reads_source:
        return (3 * depth) ** 0.25, (12 * depth) ** -0.25
    if isinstance(config, EncoderDecoderConfig):
        both = (config.num_encoder_layers**4 * depth) ** (1 / 16)
        return 0.81 * both, 0.87 / both
    return (2 * depth) ** 0.25, (8 * depth) ** -0.25


def law_in_branch(law: Law, config: TransformerConfig, *, reads_source: bool) -> Law:
    r"""How a parameter of a block begins.

    DeepNorm's $\beta$ multiplies the matrices that the output of a branch is linear in: values and output of attention,
    up and down of the network. A gate is none.
    """
    residual = config.residual
    if not isinstance(law.begins, FanIn) or law.writes not in {"values", "residual"}:
        return law
    if isinstance(residual, DeepNormConfig):
        return replace(law, begins=FanIn(deepnorm(config, reads_source=reads_source)[1]))
    if law.writes == "values" or residual.writers == "shrunk":
        return law
    return ZERO_WRITER if residual.writers == "zero" else replace(law, begins=FanIn(1.0))
