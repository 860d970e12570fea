"""How text is scored, and when in the loop."""

from typing import Annotated

from msgspec import Meta

from thetahat.core.config import Config


class ScoringConfig(Config, kw_only=True):
    """How text is scored, in the loop and by `score` alike."""

    stride: Annotated[int, Meta(ge=1)] | None = None  # of the windows over long documents; None: half the context
    batch_size: Annotated[int, Meta(ge=1)] = 16  # windows read at once; of shorter texts, as many as take their room
    passes: Annotated[int, Meta(ge=0)] = 0  # of a masked model: one token in so many is masked at once; 0: one alone


class EvaluationConfig(ScoringConfig, kw_only=True):
    """How and when what is held out is scored in the loop."""

    every: Annotated[int, Meta(ge=0)] = 0  # steps; 0: only at the end
