"""Which evaluation of a run is the best; no array is needed to say it."""

from typing import NamedTuple


class Evaluated(NamedTuple):
    """What an evaluation found, as far as the best one is chosen by it."""

    value: float  # bits per byte, or nats per label: the less the better
    step: int
    documents: int = 0  # how many of those held out were scored; 0: all


def better(best: Evaluated | None, new: Evaluated | None) -> Evaluated | None:
    """The best evaluation so far: `best`, or a new one if its value is less, or if it is of other documents.

    Values on other documents cannot be compared: where `evaluation.max_documents` changes, the best is found anew.
    """
    if new is None or (best is not None and best.documents == new.documents and best.value <= new.value):
        return best
    return new
