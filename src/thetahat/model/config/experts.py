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
    num_groups: Count = 1
    """Groups of neighbouring experts. A position chooses experts of num_chosen_groups of them alone, so that on several
    machines few are asked (DeepSeek-V2). 1: of all experts.
    """
    num_chosen_groups: Count = 1
    """How many groups each position chooses, those of the highest scores; of equal ones the first."""
    group_score: Literal["best-two", "best"] = "best-two"
    """The score of a group: the sum of its two highest scores, biases included (DeepSeek-V3), or its highest
    (DeepSeek-V2).
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
        self._check_groups()

    def _check_groups(self) -> None:
        number, chosen = self.num_groups, self.num_chosen_groups
        least = 2 if self.group_score == "best-two" and number > 1 else 1
        fitting = [
            n for n in range(1, self.num_experts + 1) if self.num_experts % n == 0 and self.num_experts >= n * least
        ]
        if number not in fitting:
            pairs = ", each of two or more" if least == 2 else ""
            raise ConfigError(
                f"num_groups={number} does not divide num_experts={self.num_experts} into groups{pairs}",
                allowed=", ".join(map(str, fitting)),
                cure=f"model.experts.num_groups={max(n for n in fitting if n <= number)}",
            )
        if chosen > number:
            raise ConfigError(
                f"num_chosen_groups={chosen} is more than num_groups={number}",
                allowed=f"1 to {number}",
                cure=f"model.experts.num_chosen_groups={number}, or more groups",
            )
        if self.num_chosen > (room := chosen * self.num_experts // number):
            raise ConfigError(
                f"num_chosen={self.num_chosen} is more than the {room} experts of num_chosen_groups={chosen} groups",
                allowed=f"1 to {room}",
                cure=f"model.experts.num_chosen={room}, or more of the groups",
            )
