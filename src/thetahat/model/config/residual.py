"""How what a block computes is added to the residual stream."""

from typing import Annotated, Literal

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.model.config.values import Positive


class SumConfig(Config, kw_only=True, tag="sum", tag_field="kind"):
    """x + scale f(x)."""

    scale: Positive = 1.0
    """What attention and network are multiplied by before they are added to the residual stream."""


class LearnedScaleConfig(Config, kw_only=True, tag="learned", tag_field="kind"):
    """x + g f(x), g learned: LayerScale (arXiv 2103.17239), ReZero (arXiv 2003.04887)."""

    per: Literal["number", "branch"] = "number"
    """Whether each number of the residual stream has a scale (LayerScale), or each branch has one (ReZero)."""
    begins: Annotated[float, Meta(ge=0)] = 0.1
    """What the learned scales are at the beginning."""


ResidualConfig = SumConfig | LearnedScaleConfig
