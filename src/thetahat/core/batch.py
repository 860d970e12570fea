"""What flows from the data to the objective: Packed has no targets yet, Batch has them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetahat.core.visibility import Visibility


@dataclass(frozen=True, slots=True)
class Part:
    """One row of a ledger: a document, or the part of it whose likelihood is wanted (a completion, a turn)."""

    id: str
    document: str  # the cluster for intervals
    source: str
    name: str = "document"  # or completion, turn-3, ...
    role: str = ""
    weight: float = 1.0  # what the record asked for
    sequence_tokens: int = 1  # tokens of positive weight in the whole sequence, wherever its pieces lie


@dataclass(frozen=True, slots=True)
class Packed:
    """Pieces of sequences laid in rows, with everything that a factorization may need; it knows no targets.

    Tokens are flat: no padding. Pieces stand in the order of their rows, tokens in the order of their pieces.
    """

    tokens: Int[Tensor, " N"]
    weight: Float[Tensor, " N"]  # what predicting this token counts for; 0: it is context
    num_bytes: Int[Tensor, " N"]  # of the text behind this token
    position: Int[Tensor, " N"]  # its place in the model's context
    part: Int[Tensor, " N"]  # index in `parts`
    piece: Int[Tensor, " N"]  # index in `row` and `parent`
    row: Int[Tensor, " P"]  # the row in which each piece lies
    parent: Int[Tensor, " P"]  # the piece that each continues, -1: none
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a Transformer reads."""

    tokens: Int[Tensor, "B T"]
    position: Int[Tensor, "B T"]
    visibility: Visibility

    def map(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        """The same with every tensor changed: moved, pinned."""
        return Inputs(change(self.tokens), change(self.position), self.visibility.map(change))


@dataclass(frozen=True, slots=True)
class Batch:
    """What a Transformer reads, and what it is asked: targets are always valid ids, what is not asked has weight 0."""

    inputs: Inputs
    targets: Int[Tensor, "B T"]
    weights: Float[Tensor, "B T"]
    part: Int[Tensor, "B T"]  # the ledger row of each target, index in `parts`
    parts: tuple[Part, ...]

    def weight(self) -> Float[Tensor, ""]:
        """Σ w in float64."""
        return self.weights.sum(dtype=torch.float64)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same with every tensor changed: moved, pinned."""
        inputs = self.inputs.map(change)
        targets, weights, part = change(self.targets), change(self.weights), change(self.part)
        return replace(self, inputs=inputs, targets=targets, weights=weights, part=part)

    def to(self, device: torch.device | str) -> "Batch":
        """The same on another device; from pinned memory the host does not wait."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))
