"""What batches hold, as the formulas of `run/cost` ask for it: rows, positions, pieces, targets."""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from thetahat.core.batch import Batch, Inputs
from thetahat.core.visibility import Visibility
from thetahat.run.config import RunConfig
from thetahat.run.cost.operations import Pieces


@dataclass(frozen=True, slots=True)
class Read:
    """Counts of the batches of a step."""

    positions: int  # that are computed, padding among them, those of a source too
    filled: int  # of these, what is no padding
    targets: int

    def __add__(self, other: "Read") -> "Read":
        return Read(self.positions + other.positions, self.filled + other.filled, self.targets + other.targets)


NOTHING = Read(0, 0, 0)


def counted_in(batch: Batch) -> Read:
    """The counts of one batch."""
    read = [batch.inputs, *([batch.inputs.source.inputs] if batch.inputs.source else [])]
    filled = sum(int((one.visibility.piece >= 0).sum()) for one in read)
    return Read(sum(one.tokens.numel() for one in read), filled, int((batch.weights > 0).sum()))


def as_read(config: RunConfig, batches: Sequence[Batch]) -> RunConfig:
    """The config whose full rows are as long as those that were read, in the mean.

    Its micro-batch is what threads have read at once.
    """
    inputs = [batch.inputs for batch in batches]
    context = round(sum(one.tokens.numel() for one in inputs) / sum(len(one.tokens) for one in inputs))
    source = max((one.source.inputs.tokens.shape[1] for one in inputs if one.source), default=None)
    together, whole = (
        max(len(one.tokens) for one in inputs) * config.num_at_once,
        sum(len(one.tokens) for one in inputs),
    )
    data = replace(config.data, context=max(context, 1), source_context=source)
    return replace(config, data=data, micro_batch_size=min(together, whole), batch_size=whole)


def pieces_of(batches: Sequence[Batch]) -> Pieces:
    r"""How many positions stand together, $\sum n^2 / \sum n$."""
    sources = [batch.inputs.source.inputs for batch in batches if batch.inputs.source]
    return Pieces(_mean_length([batch.inputs for batch in batches]), _mean_length(sources) if sources else None)


def logits_of(batches: Sequence[Batch]) -> int:
    """For how many positions the head computes logits."""
    return sum(one.targets.numel() if one.supervised is None else one.supervised.numel() for one in batches)


def _mean_length(read: Sequence[Inputs]) -> float | None:
    seen: list[Visibility] = [one.visibility for one in read]
    each = [length for one in seen for length in one.lengths or ()]
    if any(one.lengths is None for one in seen) or not each:
        return None
    return sum(length**2 for length in each) / sum(each)
