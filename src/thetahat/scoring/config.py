"""How text is scored, and when in the loop."""

from typing import Annotated

from msgspec import Meta

from thetahat.core.config import Config


class ScoringConfig(Config, kw_only=True):
    """How text is scored, in the loop and by `score` alike."""

    stride: Annotated[int, Meta(ge=1)] | None = None
    """Step of the windows over a document that is longer than the context, in positions; none: half the context."""
    batch_size: Annotated[int, Meta(ge=1)] = 16
    """Windows that are read at once; of shorter texts, as many as take their room."""
    passes: Annotated[int, Meta(ge=0)] = 0
    """Of a masked model: one token in so many is masked at once; 0: each alone, the exact pseudo-likelihood."""


class EvaluationConfig(ScoringConfig, kw_only=True):
    """How and when what is held out is scored in the loop."""

    ema: bool = False
    """Whether the moving average of the parameters (optimization.ema) is scored in their place."""

    every: Annotated[int, Meta(ge=0)] = 0
    """Steps between two evaluations of what is held out; 0: only at the end."""

    final: bool = True
    """Whether what is held out is evaluated after the last step, too."""

    max_documents: Annotated[int, Meta(ge=1)] | None = None
    """Held-out documents that an evaluation scores, always the same, chosen by their digests; none: all of them."""
