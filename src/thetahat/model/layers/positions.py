"""Positions as something added: a row of a table, sines, or a number for each distance."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetahat.model.config import RelativeConfig


def sinusoids(position: Int[Tensor, "B T"], width: int) -> Float[Tensor, "B T D"]:
    r"""$\sin(p\,\omega_j)$ for $j < D/2$, then $\cos(p\,\omega_j)$, with $\omega_j = 10000^{-2j/D}$; in float64.

    Vaswani et al., Attention Is All You Need, 2017 (arXiv 1706.03762), section 3.5, sines first as Marian has them.
    """
    exponent = torch.arange(0, width, 2, dtype=torch.float64, device=position.device) / width
    angle = position[:, :, None] * 10_000.0**-exponent
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


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
