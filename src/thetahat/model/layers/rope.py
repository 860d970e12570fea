"""Rotary positions."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetahat.model.config import LinearScaling, Llama3Scaling, Rotary, RotaryScaling, YarnScaling, rotated_width


class Rotation(NamedTuple):
    """Cosines and sines of every position's angles, made once a forward pass and used by every layer that reads them.

    2 J of a head's K dimensions are rotated, from its first on: all of most models.
    """

    cos: Float[Tensor, "B T 1 J"]
    sin: Float[Tensor, "B T 1 J"]


def rotation_of(
    position: Int[Tensor, "B T"], head_width: int, rotary: Rotary, base: float, dtype: torch.dtype
) -> Rotation:
    r"""The angles $p \cdot \omega_j$ for $j < R/2$, in at least float32; $\omega_j = b^{-2j/R}$ unless they are scaled.

    b is the rotary's own base, or `base`. Su et al., RoFormer, 2021 (arXiv 2104.09864); pairs are (j, j + R/2).
    """
    rotated, base = rotated_width(head_width, rotary), rotary.base or base
    exponent_J = torch.arange(0, rotated, 2, device=position.device, dtype=torch.float64) / rotated
    frequency_J, length = base**-exponent_J, 1.0
    if rotary.scaling is not None:
        frequency_J, length = scaled(frequency_J, rotary.scaling, base)
    angle_BT1J = (position[:, :, None] * frequency_J)[:, :, None, :]
    dtype = torch.promote_types(dtype, torch.float32)
    return Rotation((length * angle_BT1J.cos()).to(dtype), (length * angle_BT1J.sin()).to(dtype))


def scaled(frequency: Float[Tensor, " J"], scaling: RotaryScaling, base: float) -> tuple[Float[Tensor, " J"], float]:
    r"""Frequencies for a longer context than the first, and what cosines and sines are multiplied by.

    Each is $(1 - s)\,\omega/\mathrm{factor} + s\,\omega$, s between 0 and 1: by its wavelength in a context (Llama 3),
    or along a ramp between two dimensions (YaRN, equations 17 to 25); 0 for all with linear scaling.
    """
    match scaling:
        case LinearScaling():
            return frequency / scaling.factor, 1.0
        case Llama3Scaling():
            turns = scaling.context * frequency / (2 * math.pi)  # made within the context
            low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
            kept = ((turns - low) / (high - low)).clamp(0, 1)
        case YarnScaling():
            kept = 1 - _ramp(len(frequency), scaling, base).to(frequency)
    frequency = (1 - kept) * frequency / scaling.factor + kept * frequency
    return frequency, attention_factor(scaling) if isinstance(scaling, YarnScaling) else 1.0


def _ramp(num_pairs: int, yarn: YarnScaling, base: float) -> Float[Tensor, " J"]:
    """From 0, where a pair makes more than beta_fast turns in the context, to 1, where it makes less than beta_slow."""
    width = 2 * num_pairs
    low, high = (
        width * math.log(yarn.context / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (yarn.beta_fast, yarn.beta_slow)
    )
    if yarn.truncates:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    high = high + 0.001 if low == high else high  # as published: no division by zero
    return ((torch.arange(num_pairs, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)


def attention_factor(yarn: YarnScaling) -> float:
    """What YaRN multiplies cosines and sines by: the given factor, or 0.1 ln(factor) + 1 (its equation 22)."""
    if yarn.attention_factor is not None:
        return yarn.attention_factor
    return 0.1 * math.log(yarn.factor) + 1 if yarn.factor > 1 else 1.0


def rotate(x: Float[Tensor, "B T H K"], by: Rotation | None) -> Float[Tensor, "B T H K"]:
    r"""Rotates each pair $(x_j, x_{j+R/2})$ by its position's angle, so that products depend on distance alone.

    What lies behind the first R dimensions stays as it is, and without a rotation all of it.
    """
    if by is None:
        return x
    rotated = 2 * by.cos.shape[-1]
    if rotated < x.shape[-1]:
        return torch.cat([rotate(x[..., :rotated], by), x[..., rotated:]], dim=-1)
    first, second = x.chunk(2, dim=-1)
    turned = (first * by.cos).sub_(second * by.sin), (second * by.cos).add_(first * by.sin)
    return torch.cat(turned, dim=-1).to(x.dtype)
