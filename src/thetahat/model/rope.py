"""Rotary positions."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Rotation(NamedTuple):
    """Cosines and sines of every position's angles, made once a forward pass and used by every layer."""

    cos: Float[Tensor, "B T 1 K/2"]
    sin: Float[Tensor, "B T 1 K/2"]


def rotation_of(position: Int[Tensor, "B T"], head_width: int, base: float, dtype: torch.dtype) -> Rotation:
    r"""The angles $p \cdot \mathrm{base}^{-2j/K}$ for $j < K/2$, in at least float32.

    Su et al., RoFormer, 2021 (arXiv 2104.09864); pairs are (j, j + K/2).
    """
    exponent_J = torch.arange(0, head_width, 2, device=position.device, dtype=torch.float64) / head_width
    angle_BT1J = (position[:, :, None] * base**-exponent_J)[:, :, None, :]
    dtype = torch.promote_types(dtype, torch.float32)
    return Rotation(angle_BT1J.cos().to(dtype), angle_BT1J.sin().to(dtype))


def rotate(x: Float[Tensor, "B T H K"], by: Rotation) -> Float[Tensor, "B T H K"]:
    r"""Rotates each pair $(x_j, x_{j+K/2})$ by its position's angle, so that products depend on distance alone."""
    first, second = x.chunk(2, dim=-1)
    turned = (first * by.cos).sub_(second * by.sin), (second * by.cos).add_(first * by.sin)
    return torch.cat(turned, dim=-1).to(x.dtype)
