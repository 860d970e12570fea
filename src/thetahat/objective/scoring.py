"""The questions that scoring asks: every token once, whatever training draws."""

from collections.abc import Iterator

from thetahat.core.batch import Batch, Packed, Symbols
from thetahat.objective.config import FillInTheMiddle, Masked, ObjectiveConfig, Prefix
from thetahat.objective.factorization import causal, factor, prefix
from thetahat.objective.masked import pseudo


def questions(
    packed: Packed, objective: ObjectiveConfig, symbols: Symbols, num_passes: int = 0, row_length: int | None = None
) -> Iterator[Batch]:
    """Batches in which every token that counts is asked exactly once.

    Of a masked model each token is asked given all others (`pseudo`); of a prefix model a text without a prompt is read
    causally, and of one that fills in the middle any text. Spans are asked as they are drawn from the seed: which
    tokens are scored is a sample, always the same.
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
