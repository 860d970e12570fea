"""What mixes positions in one layer."""

from thetahat.core.config import Config
from thetahat.model.config.positions import Alibi, Rotary, Unrotated
from thetahat.model.config.values import Count


class AttentionMixer(Config, kw_only=True, tag="attention", tag_field="kind"):
    """How the attention of a layer tells positions, and how far it sees."""

    positions: Rotary | Unrotated | Alibi = Rotary()
    """How queries and keys, or their scores, tell positions."""
    distance: Count | None = None
    """The farthest position that is seen (a sliding window), in positions; none: all are seen."""


Mixer = AttentionMixer
"""What mixes positions in one layer; other kinds than attention become further variants."""
