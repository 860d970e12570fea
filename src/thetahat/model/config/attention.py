"""What the attentions of all layers have in common."""

from typing import Literal

from thetahat.core.config import Config
from thetahat.model.config.positions import RelativeConfig
from thetahat.model.config.values import Count, Positive


class AttentionConfig(Config, kw_only=True):
    """What the attentions of all layers have in common."""

    query_key_norm: Literal["head", "joined", "none"] = "head"
    """Whether queries and keys are normalised over the width of each head, over all heads joined, or not."""
    has_bias: bool = False
    """Whether queries, keys and values have a bias."""
    has_output_bias: bool = False
    """Whether the output projection has a bias."""
    scale: Positive | None = None
    """What scores are multiplied by; none: 1 / sqrt of the width of a key."""
    cap: Positive | None = None
    """The soft cap c of scores, c tanh(score / c); none: no cap."""
    sinks: Literal["none", "zero", "learned"] = "none"
    """Whether the softmax of each head has one more term in its denominator, which lets it read nothing: none; exp(0)
    (softmax off by one); or exp of a learned logit (gpt-oss).
    """
    sharing: Count = 1
    """How many attentions, one after the other, have the keys and values of the first of them (cross-layer attention);
    layers of other kinds between them do not count. 1: each has its own.
    """
    relative: RelativeConfig | None = None
    """Learned numbers for distances that are added to the scores, in one table that all layers share; none: there
    are none.
    """
