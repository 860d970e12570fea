"""What stands before the first block and behind the last one."""

from typing import Annotated

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.model.config.network import Activation
from thetahat.model.config.positions import LearnedPositions, SinusoidalPositions
from thetahat.model.config.values import Count, Positive


class SmearConfig(Config, kw_only=True):
    """Each embedding gets a learned share of the embedding before it, through a gate (smear)."""

    gate_width: Count = 24
    """How many numbers of the embedding its gate sees, from the first on; of a narrower model, all."""


class EmbeddingConfig(Config, kw_only=True):
    """What is done to the embeddings of tokens before the first block."""

    positions: LearnedPositions | SinusoidalPositions | None = None
    """What is added to the embeddings to tell positions; none: nothing is."""
    num_types: Annotated[int, Meta(ge=0)] = 0
    """Rows of a table of segments (BERT's token types), of which all tokens have the first; 0: there is no table."""
    scale: Positive = 1.0
    """What embeddings are multiplied by."""
    has_norm: bool = False
    """Whether the sum of embeddings is normalised before the first block."""
    width: Count | None = None
    """Width of the table of tokens where it is narrower than the model and then projected; none: the model's."""

    smear: SmearConfig | None = None
    """Whether each position also gets a share of what the first block would read of the position before it; none: no.
    """


class ValueEmbeddingConfig(Config, kw_only=True):
    """Tables of tokens whose rows are added to the values of some attentions, each head through a gate."""

    every: Count = 2
    """Each so many-th attention has a table, counted from the last one, which has one; 1: all have. Those that share
    the values of another do not count.
    """
    gate_width: Count = 32
    """How many numbers of what the attention reads its gates see, from the first on; of a narrower model, all."""


class TransformConfig(Config, kw_only=True):
    """A dense layer between the last block and the head: norm(activation(dense h))."""

    activation: Activation = "gelu"
    """The activation function."""
    has_bias: bool = True
    """Whether the dense layer has a bias."""
    has_norm: bool = True
    """Whether its output is normalised."""


class HeadConfig(Config, kw_only=True):
    """How hidden states become logits."""

    transform: TransformConfig | None = None
    """A dense layer between the last block and the head; none: there is none."""
    has_bias: bool = False
    """Whether each token of the vocabulary has a bias."""
    scale: Positive = 1.0
    """What hidden states are multiplied by before the head."""
    cap: Positive | None = None
    """The soft cap c of logits, c tanh(logit / c); none: no cap."""
