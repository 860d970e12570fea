"""Positions as something added: a row of a table, sines, or a number for each distance."""

import math
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thetahat.model.config import RelativeConfig


def sinusoids(position: Int[Tensor, "B T"], width: int) -> Float[Tensor, "B T D"]:
    r"""$\sin(p\,\omega_j)$ for $j < D/2$, then $\cos(p\,\omega_j)$, with $\omega_j = 10000^{-2j/D}$; in float64.

    Vaswani et al., Attention Is All You Need, 2017 (arXiv 1706.03762), section 3.5, sines first as Marian has them.
    """
    exponent = torch.arange(0, width, 2, dtype=torch.float64, device=position.device) / width
    angle = position[:, :, None] * 10_000.0**-exponent
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def alibi_slopes(num_heads: int) -> Float[Tensor, " H"]:
    r"""$2^{-8h/n}$ for $h = 1, \dots, n$ with n the largest power of two that is at most H, in float64.

    Heads beyond n have every other slope of 2 n heads, from the first on. Press et al., Train Short, Test Long, 2021
    (arXiv 2108.12409), as they published it.
    """
    number = 1 << (num_heads.bit_length() - 1)
    exponents = torch.arange(1, number + 1, dtype=torch.float64) * 8 / number
    between = (2 * torch.arange(num_heads - number, dtype=torch.float64) + 1) * 4 / number
    return 2.0 ** -torch.cat([exponents, between])


@final
class Slopes(nn.Module):
    r"""$-m_h\,|\delta|$ for each head h and distance $\delta$ from query to key; `alibi_slopes` has m."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.heads = slice(None)  # those that are computed here

    def forward(self, delta: Int[Tensor, "B T S"], dtype: torch.dtype) -> Float[Tensor, "B H T S"]:
        precise = torch.promote_types(dtype, torch.float32)
        slope = alibi_slopes(self.num_heads)[self.heads].to(delta.device, precise)
        return (-slope[:, None, None] * delta.abs()[:, None]).to(dtype)

    if TYPE_CHECKING:
        __call__ = forward


def distance_bucket(delta: Int[Tensor, "*axes"], config: RelativeConfig, *, both_ways: bool) -> Int[Tensor, "*axes"]:
    r"""The bucket of each distance, delta = position of the key - position of the query.

    Up to half of the buckets of a direction are of one distance each, the others grow logarithmically up to
    `max_distance`; all that is farther shares the last. Both ways, keys behind the query have the second half of all
    buckets; one way they have that of distance 0. Raffel et al., T5, 2020 (arXiv 1910.10683), section 2.1.
    """
    number = config.num_buckets // 2 if both_ways else config.num_buckets
    first = (delta > 0) * number if both_ways else torch.zeros_like(delta)
    distance = delta.abs() if both_ways else (-delta).clamp(min=0)
    exact = number // 2
    growth = torch.log(distance.clamp(min=1).double() / exact) / math.log(config.max_distance / exact)
    far = exact + (growth * (number - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=number - 1))
