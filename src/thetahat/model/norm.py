"""Root-mean-square normalisation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from thetahat.model.law import GAIN, Law


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
