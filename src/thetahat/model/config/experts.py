"""A mixture of experts in the place of the feed-forward network."""

from typing import Annotated, Literal

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError
from thetahat.model.config.values import Count, Positive

Number = Annotated[int, Meta(ge=0)]


class ExpertsConfig(Config, kw_only=True):
    """Many feed-forward networks, of which each position chooses a few: by its own state, whatever else is read.

    No position is ever dropped, so the likelihood of a sequence does not depend on what shares its batch.
    """

    num_experts: Annotated[int, Meta(ge=2)] = 8
    """E: networks of a layer."""
    num_chosen: Count = 2
    """How many of them each position chooses (top-k), those of the highest scores; of equal ones the first."""
    inner_width: Count | None = None
    """Inner width of each expert; none: model.inner_width."""
    scores: Literal["sigmoid", "softmax"] = "sigmoid"
    """Scores from the logits of the router: each by itself (DeepSeek-V3), or over all experts (Switch, Mixtral)."""
    normalizes: bool = True
    """Whether scores of what is chosen are divided by their sum; with softmax it is the softmax over these alone."""
    scale: Positive = 1.0
    """What the sum of the chosen experts is multiplied by."""
    has_bias: bool = True
    """Whether a number for each expert is added to its score where scores are compared, and nowhere else. It balances
    the load, in steps of objective.balance.bias_rate.
    """
    shared_width: Number = 0
    """Inner width of a network beside the experts that all positions read; 0: there is none."""
    num_dense: Number = 0
    """Layers, from the first on, that have one network of model.inner_width in place of experts."""

    def __post_init__(self) -> None:
        if self.num_chosen > self.num_experts:
            raise ConfigError(
                f"num_chosen={self.num_chosen} is more than num_experts={self.num_experts}",
                allowed=f"1 to {self.num_experts}",
                cure=f"model.experts.num_chosen={self.num_experts}, or more experts",
            )
