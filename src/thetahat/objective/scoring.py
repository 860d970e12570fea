"""The batches that scoring reads: every token is a target once, whatever training draws."""

from collections.abc import Iterator

from thetahat.core.batch import Batch, Packed, Symbols
from thetahat.objective.config import FillInTheMiddle, Masked, ObjectiveConfig, Prefix
from thetahat.objective.factorization import causal, factor, prefix
from thetahat.objective.masked import pseudo


def scored_batches(
    packed: Packed, objective: ObjectiveConfig, symbols: Symbols, num_passes: int = 0, row_length: int | None = None
) -> Iterator[Batch]:
    """Batches in which every token with a loss weight is a target exactly once.

    A masked model predicts each token given all others (`pseudo`). A prefix model reads a text without a prompt
    causally, and a model that fills in the middle every text. Spans are drawn from the seed, as in training: the
    targets are a sample of the tokens, and always the same one.
    """
    plain = ObjectiveConfig(factorization=objective.factorization)
    match objective.factorization:
        case Masked():
            yield from pseudo(packed, plain, symbols, num_passes, row_length)
        case FillInTheMiddle():
            yield causal(packed, plain, row_length)
        case Prefix():
            yield prefix(packed, plain, row_length, draws=False)
        case _:
            yield factor(packed, plain, symbols, row_length)
