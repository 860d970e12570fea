"""How a model tells positions: queries and keys that are rotated, scores or embeddings that are added to."""

from typing import Annotated

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.model.config.values import Count, Positive


class LinearScaling(Config, kw_only=True, tag="linear", tag_field="kind"):
    """All rotary frequencies divided by `factor` (Chen et al., 2023, arXiv 2306.15595)."""

    factor: Positive
    """What all frequencies are divided by."""


class Llama3Scaling(Config, kw_only=True, tag="llama3", tag_field="kind"):
    """Low frequencies divided by `factor`, high ones kept, a ramp between them (Llama 3, arXiv 2407.21783)."""

    factor: Positive
    """What low frequencies are divided by."""
    low_frequency_factor: Positive
    """Wavelengths above context / this are low."""
    high_frequency_factor: Positive
    """Wavelengths below context / this are high."""
    context: Count
    """The context length that the frequencies were first trained for."""


class YarnScaling(Config, kw_only=True, tag="yarn", tag_field="kind"):
    """The same ramp over the rotations made in the context, and larger scores (YaRN, Peng et al., arXiv 2309.00071)."""

    factor: Positive
    """What low frequencies are divided by."""
    context: Count
    """The context length that the frequencies were first trained for."""
    beta_fast: Positive = 32.0
    """Rotations within the context from which on a frequency is kept."""
    beta_slow: Positive = 1.0
    """Rotations within the context up to which a frequency is divided."""
    attention_factor: Positive | None = None
    """What cosines and sines are multiplied by; none: 0.1 ln(factor) + 1."""
    truncates: bool = True
    """Whether the ends of the ramp are rounded to whole dimensions."""


RotaryScaling = LinearScaling | Llama3Scaling | YarnScaling


class Rotary(Config, kw_only=True, tag="rotary", tag_field="kind"):
    """Queries and keys are rotated by their positions."""

    base: Annotated[float, Meta(gt=1)] | None = None
    """The base of the rotary frequencies of this layer; none: model.rope_base."""
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """The share of the head width that is rotated, from its beginning."""
    scaling: RotaryScaling | None = None
    """How frequencies are changed for contexts longer than that of the first training; none: not at all."""


class Unrotated(Config, kw_only=True, tag="none", tag_field="kind"):
    """Queries and keys are read as they are: positions come from elsewhere, or from nowhere."""


def rotated_width(head_width: int, rotary: Rotary) -> int:
    """How many of a head's dimensions are rotated."""
    return int(head_width * rotary.share)


class Alibi(Config, kw_only=True, tag="alibi", tag_field="kind"):
    """Scores fall with the distance, in each head at a slope of its own (ALiBi, arXiv 2108.12409)."""


class RelativeConfig(Config, kw_only=True):
    """A learned number for each head and bucket of distances, added to the scores (T5, arXiv 1910.10683)."""

    num_buckets: Annotated[int, Meta(ge=4)] = 32
    """Buckets of distances, each with a learned number for every head."""
    max_distance: Count = 128
    """The distance beyond which all share the last bucket, in positions."""


class LearnedPositions(Config, kw_only=True, tag="learned", tag_field="kind"):
    """A table of positions, added to the embeddings; position p has row p + offset of number + offset."""

    number: Count
    """How many positions there are."""
    offset: Annotated[int, Meta(ge=0)] = 0
    """Rows of the table that stand before the first position."""


class SinusoidalPositions(Config, kw_only=True, tag="sinusoidal", tag_field="kind"):
    """Sines, then cosines, of positions, added to the embeddings (Vaswani et al., arXiv 1706.03762)."""
