"""What flows from the data to the objective: Packed has no targets yet, Batch has them."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetahat.core.parts import Parts
from thetahat.core.special import MASK, SENTINEL, Frames
from thetahat.core.visibility import Visibility


@dataclass(frozen=True, slots=True)
class Symbols:
    """What a factorization must know of a vocabulary."""

    vocab_size: int
    frames: Frames
    is_special: Bool[Tensor, " V"]  # stands for no text
    begins_word: Bool[Tensor, " V"]  # a word of a text begins here: with a blank, or with no letter
    special: Mapping[str, int] = field(default_factory=dict[str, int])  # special tokens by name
    unknown: int | None = None  # stands for text that the vocabulary lacks

    @property
    def mask(self) -> int | None:
        """The id of the token that a masked model reads in place of a target."""
        return self.special.get(MASK)

    @property
    def sentinels(self) -> tuple[int, ...]:
        """What stands for the first, second, ... span that is left out."""
        names = itertools.takewhile(self.special.__contains__, map(SENTINEL.format, itertools.count()))
        return tuple(self.special[name] for name in names)


@dataclass(frozen=True, slots=True)
class Packed:
    """Pieces of sequences laid in rows, with everything that a factorization may need; it knows no targets.

    Tokens are flat: no padding. Pieces stand in the order of their rows, tokens in the order of their pieces, parents
    before their children. A piece begins with the token before its first target: with a parent, that is the last
    token of the parent once more, at the same position.
    """

    tokens: Int[Tensor, " N"]
    weight: Float[Tensor, " N"]  # what predicting this token counts for; 0: it is context
    num_bytes: Int[Tensor, " N"]  # of the text behind this token
    position: Int[Tensor, " N"]  # its place in the model's context
    part: Int[Tensor, " N"]  # index in `parts`
    is_prompt: Bool[Tensor, " N"]  # a condition: it is read and never predicted
    piece: Int[Tensor, " N"]  # index in `row`, `parent` and `seed`
    row: Int[Tensor, " P"]  # the row in which each piece lies
    parent: Int[Tensor, " P"]  # the piece that each continues, -1: none
    seed: Int[Tensor, " P"]  # a function of (seed, epoch, sequence): whatever a factorization draws, it draws from here
    parts: Parts
    origin: Int[Tensor, " N"] | None = None  # where each token stood before a factorization rewrote them; None: here


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a Transformer reads."""

    tokens: Int[Tensor, "B T"]
    position: Int[Tensor, "B T"]
    visibility: Visibility
    source: "Source | None" = None  # what an encoder reads first

    def map(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        """The same with every tensor changed: moved, pinned."""
        source = self.source.map(change) if self.source else None
        return Inputs(change(self.tokens), change(self.position), self.visibility.map(change), source)


@dataclass(frozen=True, slots=True)
class Source:
    """What an encoder reads, and which of it each position of the decoder sees."""

    inputs: Inputs
    piece: Int[Tensor, "B T"]  # the piece of the source that is seen, -1 where nothing is read

    def mask(self) -> Bool[Tensor, "B T S"]:
        """Who sees which source position; what is padding counts nowhere and sees all, so that no softmax is empty."""
        query, key = self.piece[:, :, None], self.inputs.visibility.row.piece[:, None, :]
        return (query == key) | (query < 0)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Source":
        """The same with every tensor changed: moved, pinned."""
        return Source(self.inputs.map(change), change(self.piece))


@dataclass(frozen=True, slots=True)
class FutureTargets:
    """Targets so many tokens ahead of where they are predicted: each once, with its loss weight, from one place.

    They are lists, since where a text branches one place has a target in each branch.
    """

    place: Int[Tensor, " n"]  # in B x T, that predicts
    target: Int[Tensor, " n"]
    weight: Float[Tensor, " n"]

    def map(self, change: Callable[[Tensor], Tensor]) -> "FutureTargets":
        """The same with every tensor changed: moved, pinned, or some of them taken."""
        return FutureTargets(change(self.place), change(self.target), change(self.weight))


@dataclass(frozen=True, slots=True)
class Batch:
    """What a Transformer reads and predicts: targets are always valid ids; what is not predicted has weight 0."""

    inputs: Inputs
    targets: Int[Tensor, "B T"]
    weights: Float[Tensor, "B T"]
    part: Int[Tensor, "B T"]  # the ledger row of each target, index in `parts`
    origin: Int[Tensor, "B T"]  # which token of Packed each target is
    num_bytes: Int[Tensor, "B T"]  # of the text behind each target; 0 for what stands for no text
    parts: Parts
    supervised: Int[Tensor, " n"] | None = None  # where in B x T the weight is not 0; None: wherever something is read
    whole: "Batch | None" = None  # the batch on the host, where these are some of its positions
    future: tuple[FutureTargets, ...] = ()  # those 2, 3, ... tokens ahead; no part of the likelihood of the batch
    is_idle: bool = False  # it is read for the sake of others, and counts for nothing

    def idle(self) -> "Batch":
        """The same without targets: for a rank that has nothing to read while others read, and must take part."""
        nothing = torch.zeros(0, dtype=torch.int64)
        future = tuple(one.map(lambda values: values[:0]) for one in self.future)
        weights = torch.zeros_like(self.weights)
        return replace(self, weights=weights, supervised=nothing, future=future, is_idle=True)

    def weight(self) -> Float[Tensor, ""]:
        """Σ w in float64."""
        return self.weights.sum(dtype=torch.float64)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same with every tensor changed: moved, pinned."""
        inputs = self.inputs.map(change)
        changed = {name: change(getattr(self, name)) for name in ("targets", "weights", "part", "origin", "num_bytes")}
        supervised = None if self.supervised is None else change(self.supervised)
        future = tuple(one.map(change) for one in self.future)
        return replace(self, inputs=inputs, **changed, supervised=supervised, future=future)

    def to(self, device: torch.device | str) -> "Batch":
        """The same on another device; from pinned memory the host does not wait."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))
