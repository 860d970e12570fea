"""How what a block computes is added to the residual stream."""

from typing import Annotated, Literal

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError
from thetahat.model.config.values import Positive

Writers = Literal["shrunk", "even", "zero"]


class SumConfig(Config, kw_only=True, tag="sum", tag_field="kind"):
    """x + scale f(x)."""

    scale: Positive = 1.0
    """What attention and network are multiplied by before they are added to the residual stream."""
    writers: Writers = "shrunk"
    """How the last matrix of each branch begins. shrunk: by its fan-in, divided by the square root of how many write
    into the stream; even: by its fan-in alone, as all others; zero: at 0, so that a branch adds nothing at first.
    """


class LearnedScaleConfig(Config, kw_only=True, tag="learned", tag_field="kind"):
    """x + g f(x), g learned: LayerScale (arXiv 2103.17239), ReZero (arXiv 2003.04887)."""

    per: Literal["number", "branch"] = "number"
    """Whether each number of the residual stream has a scale (LayerScale), or each branch has one (ReZero)."""
    begins: Annotated[float, Meta(ge=0)] = 0.1
    """What the learned scales are at the beginning."""
    writers: Writers = "shrunk"
    """How the last matrix of each branch begins, as for residual.kind=sum."""

    def __post_init__(self) -> None:
        if self.begins == 0 and self.writers == "zero":
            raise ConfigError(
                "model.residual.begins=0 with model.residual.writers=zero: a product of zeros has no gradient",
                cure="model.residual.writers=shrunk",
            )


class DeepNormConfig(Config, kw_only=True, tag="deepnorm", tag_field="kind"):
    """a x + f(x), and a norm behind it; matrices begin b times smaller, a and b by depth (arXiv 2203.00555)."""


ResidualConfig = SumConfig | LearnedScaleConfig | DeepNormConfig
