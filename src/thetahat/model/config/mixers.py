"""What mixes positions in one layer."""

from typing import Annotated, Literal

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError
from thetahat.model.config.positions import Alibi, Rotary, Unrotated
from thetahat.model.config.values import Count, Positive


class _Attends(Config, kw_only=True):
    """What attentions of both kinds have in common."""

    positions: Rotary | Unrotated | Alibi = Rotary()
    """How queries and keys, or their scores, tell positions."""
    distance: Count | None = None
    """The farthest position that is seen (a sliding window), in positions; none: all are seen."""
    num_global: Annotated[int, Meta(ge=0)] = 0
    """Beside a distance: how many positions at the beginning of each text all others see, however far (Longformer's
    global tokens, StreamingLLM's sinks). Where layers read both ways these see all others, too.
    """

    def __post_init__(self) -> None:
        if self.num_global and self.distance is None:
            raise ConfigError(
                f"num_global={self.num_global} without a distance, and then all positions are seen",
                allowed="num_global beside distance",
                cure="distance=128, or num_global=0",
            )


class AttentionMixer(_Attends, kw_only=True, tag="attention", tag_field="kind"):
    """How the attention of a layer tells positions, and how far it sees."""


class LatentMixer(_Attends, kw_only=True, tag="latent", tag_field="kind"):
    """Latent attention: keys and values of all heads are made of one latent of each position, which a cache keeps.

    Each head has keys and values of its own, and norms of the latents stand in the place of those of queries and keys
    (DeepSeek-V2, arXiv 2405.04434).
    """

    latent_width: Count = 64
    """Width of the latent that keys and values are made of."""
    query_width: Count | None = None
    """Width of the latent that queries are made of; none: they are made of the states."""
    rotary_width: Count = 16
    """Width of what is rotated: of each head's query beside the head's width, and of one key for all heads."""
    norm_epsilon: Positive | None = None
    """What the norms of latents add to the mean square; none: model.norm_epsilon."""

    def __post_init__(self) -> None:
        _Attends.__post_init__(self)
        if self.rotary_width % 2:
            raise ConfigError(
                f"rotary_width={self.rotary_width} is odd, and rotary positions rotate pairs",
                cure=f"rotary_width={self.rotary_width + 1}",
            )
        if isinstance(self.positions, Rotary) and self.positions.share != 1:
            raise ConfigError(
                f"positions.share={self.positions.share} with kind=latent: what is rotated is apart",
                allowed="positions.share=1",
                cure="positions.share=1, and rotary_width=N for the width of what is rotated",
            )


class LinearMixer(Config, kw_only=True, tag="linear", tag_field="kind"):
    r"""Linear attention: $S_t = \lambda_t S_{t-1} + \phi(k_t) v_t^\top$, read as $\phi(q_t)^\top S_t$.

    It has the model's heads, and keys and values as wide as a head.
    """

    decay: Literal["none", "fixed", "learned"] = "none"
    """What the state is multiplied by at each position. none: nothing, and what is read is divided by the sum of its
    weights (Katharopoulos et al., 2020); fixed: a number for each head (RetNet); learned: read from the position, as in
    gated linear attention.
    """


class DeltaMixer(Config, kw_only=True, tag="delta", tag_field="kind"):
    r"""The gated delta rule: $S_t = \lambda_t (I - \beta_t k_t k_t^\top) S_{t-1} + \beta_t k_t v_t^\top$."""

    has_decay: bool = True
    """Whether the state decays (Gated DeltaNet), or only what a key stands for is replaced (DeltaNet)."""
    value_width: Count | None = None
    """Width of the values of a head; none: the model's head width, which keys always have."""
    conv: Count = 4
    """Positions that the convolution over queries, keys and values reads; 1: each its own."""


class StateSpaceMixer(Config, kw_only=True, tag="state-space", tag_field="kind"):
    r"""Mamba-2's state: $S_t = e^{-a \Delta_t} S_{t-1} + \Delta_t B_t x_t^\top$, read as $C_t^\top S_t + D x_t$."""

    expansion: Count = 2
    """Width of x of all heads together, in widths of the model; a head has the model's head width."""
    state_width: Count = 64
    """Width of B and C, which all heads share."""
    conv: Count = 4
    """Positions that the convolution over x, B and C reads; 1: each its own."""


RecurrentMixer = LinearMixer | DeltaMixer | StateSpaceMixer
"""What carries a state from position to position."""
AttendingMixer = AttentionMixer | LatentMixer
"""What reads the positions themselves."""
Mixer = AttentionMixer | RecurrentMixer | LatentMixer
"""What mixes positions in one layer."""
