"""Normalisations, and where they stand in a block."""

from typing import Literal

from thetahat.core.config import Config

Placement = Literal["pre", "post", "sandwich", "branch", "parallel", "none"]


class RMSNormConfig(Config, kw_only=True, tag="rms", tag_field="kind"):
    """Root-mean-square normalisation with a gain."""

    adds_one: bool = False
    """Whether the gain is kept as its distance from 1, as Gemma does."""


class LayerNormConfig(Config, kw_only=True, tag="layer", tag_field="kind"):
    """Normalisation by mean and variance, with a gain."""

    has_bias: bool = True
    """Whether a bias is added after the gain."""


NormConfig = RMSNormConfig | LayerNormConfig
