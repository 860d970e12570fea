"""The parts of records whose likelihood is wanted: as numbers in a batch, by name in a ledger or an error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Part(NamedTuple):
    """What a row of a ledger says of a document, or of a part of it: a completion, a turn."""

    id: str
    document: str  # the cluster for intervals
    source: str
    name: str = "document"  # or completion, turn-3, ...
    role: str = ""
    weight: float = 1.0  # what the record asked for, times what the message did
    number: int = -1  # index in the parts of its corpus


@dataclass(frozen=True, slots=True)
class Parts:
    """The n parts of which a batch holds tokens, as numbers; they stay on the host.

    Counts are of what may be a target, wherever its pieces lie, and at least 1.
    """

    number: Int[Tensor, " n"]  # index in the parts of the corpus
    weight: Float[Tensor, " n"]  # float64; what the record asked for, times what the message did
    num_tokens: Int[Tensor, " n"]  # targets of the part
    record_tokens: Int[Tensor, " n"]  # the same of the whole record
    record_parts: Int[Tensor, " n"]  # parts of the whole record with targets, for example assistant turns
    has_prompt: Bool[Tensor, " n"]  # whether something of the record is a condition, in whatever piece it lies
    describe: Callable[[Sequence[int]], list[Part]]  # of these numbers, by the corpus; for ledgers and errors

    def __len__(self) -> int:
        return len(self.number)

    def named(self, index: Sequence[int] | None = None) -> list[Part]:
        """All of them, or those with these indices, by name."""
        return self.describe(self.number.tolist() if index is None else self.number[list(index)].tolist())
