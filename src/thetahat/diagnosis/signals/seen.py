"""What the host knows of a step before its update."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from thetahat.diagnosis.signals.sequences import FULL, NUM_VALUES, WORST


class Worst(NamedTuple):
    """A sequence that costs more than the others of its rank."""

    excess: float  # nats a target above the median of the rank's sequences; of short ones less, see `summary`
    nats: float  # a target
    num_tokens: int
    rank: int
    piece: int  # among the pieces of all micro-batches of the rank


@dataclass(frozen=True, slots=True)
class Seen:
    """The signals of a step, before its update."""

    step: int  # that the update would make, from 1
    num_targets: int  # over all ranks
    nats: float  # a target, whatever the normalization and the weights
    log_normalizer: float  # nats, the mean over targets
    gradient_norm: float  # before clipping
    learning_rate_factor: float
    norms: Mapping[str, float]  # of the gradient before clipping, by region
    worst: Sequence[Worst]  # in descending order, over all ranks
    is_finite: bool

    @property
    def excess(self) -> float:
        """By how much the worst sequence exceeds the median; NaN where nothing can be compared."""
        return self.worst[0].excess if self.worst else float("nan")


def worst_of(summaries: Sequence[Sequence[float]]) -> list[Worst]:
    """The WORST sequences over all ranks, from one summary a rank."""
    found: list[Worst] = []
    for rank, values in enumerate(summaries):
        median, rest = values[3], values[4:NUM_VALUES]
        rows = [rest[place : place + 3] for place in range(0, len(rest), 3)]
        found += [
            Worst(excess, median + excess / math.sqrt(min(num_tokens, FULL) / FULL), int(num_tokens), rank, int(index))
            for excess, num_tokens, index in rows
            if -float("inf") < excess < float("inf")
        ]
    return sorted(found, reverse=True)[:WORST]
