"""Who may see whom, as data that a batch carries and an attention backend compiles once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, no_type_check

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Chunk(NamedTuple):
    """Neighbouring queries, and the keys that any of them may see."""

    queries: slice  # among those of this process
    keys: slice  # in the row


class Span(NamedTuple):
    """One piece where it lies in rows laid end to end."""

    start: int  # in B x T
    length: int
    parent: int  # the span that it continues, which stands before it; -1: none


@dataclass(frozen=True, slots=True)
class Row:
    """Whole rows of which a process reads some positions, while others read the rest."""

    seen: "Visibility"  # who sees whom in the whole row
    mine: Int[Tensor, " t"]  # the columns of this process
    chunks: tuple[Chunk, ...]
    gathered: Callable[[Tensor], Tensor]  # [B G t K] of this process -> [B G T K] of all, in the order of the row


@dataclass(frozen=True, slots=True)
class Visibility:
    r"""Position i may see position j of its row when j's piece is i's piece or an ancestor of it, and j <= i if causal.

    Positions marked `is_open` are seen by all of their piece, also by those before them: the prefix of a prefix
    language model. With a `distance`, i sees j only where their positions are at most so far apart (Mistral 7B, 2023,
    arXiv 2310.06825: a sliding window of distance + 1), or where one of them is among the first `num_global` positions
    of its text: all see these, and where nothing is causal these see all (Longformer, 2020, arXiv 2004.05150, section
    3.1). Positions count from the beginning of each text, in a tree from its root.

    A piece is a contiguous span of one sequence. Without ancestors each piece sees itself alone, which is how packed
    documents stay apart; with them, branches share a prefix that is computed once. Padding is piece -1: it sees
    padding, nothing sees it.

    `lengths` says what stands apart: row after row, the number of positions of each piece, or of each tree of pieces,
    and of the padding at a row's end. They add up to B T, and kernels for pieces of different lengths read them on the
    host, without waiting for a device. `spans` says of each piece where it lies and which it continues, for what reads
    position after position.
    """

    piece: Int[Tensor, "B T"]
    ancestors: Bool[Tensor, "P P"] | None = None  # [i, j]: piece i may see piece j; None: i == j
    is_causal: bool = True
    is_plain: bool = False  # each row is one piece, padded at its end at most: a causal kernel needs no mask
    is_open: Bool[Tensor, "B T"] | None = None  # None: nowhere
    lengths: tuple[int, ...] | None = None  # None: unknown, or something is scattered over its row
    spans: tuple[Span, ...] | None = None  # in the order of their places; None: unknown
    distance: int | None = None  # the farthest position seen; None: any
    num_global: int = 0  # positions of a text that are seen from any distance
    position: Int[Tensor, "B T"] | None = None  # places in the context, where they are asked for
    whole: Row | None = None  # None: whole rows are read here; else these are the queries, and the keys are the row's

    @property
    def row(self) -> "Visibility":
        """The relation in whole rows, which the keys are of."""
        return self.whole.seen if self.whole else self

    def mask(self, queries: slice = slice(None), keys: slice = slice(None)) -> Bool[Tensor, "B T S"]:
        """The relation, written out, or for some queries and keys."""
        row = self.row
        query, key = self.piece[:, queries, None], row.piece[:, None, keys]
        visible = query == key
        if self.ancestors is not None:
            visible |= self.ancestors[query.clamp(min=0), key.clamp(min=0)] & (query >= 0) & (key >= 0)
        if self.is_causal:
            place = torch.arange(row.piece.shape[1], device=row.piece.device)
            earlier = place[keys] <= (self.whole.mine if self.whole else place)[queries, None]
            visible &= earlier if row.is_open is None else earlier | row.is_open[:, None, keys]
        if self.distance is not None and self.position is not None and row.position is not None:
            near = self.position[:, queries, None], row.position[:, None, keys]
            visible &= reaches(*near, self.distance, self.num_global)
        return visible

    def found_spans(self) -> tuple[Span, ...]:
        """`spans`, which are looked for where they are unknown."""
        if self.spans is not None:
            return self.spans
        return spans_of(self.piece.cpu(), None if self.ancestors is None else self.ancestors.cpu())

    def root(self) -> Int[Tensor, "B T"]:
        """The piece at the top of each position's tree, which is its own where pieces have no parents; -1: padding."""
        if self.ancestors is None:
            return self.piece
        return torch.where(self.piece < 0, -1, self.ancestors.int().argmax(1)[self.piece.clamp(min=0)])

    def at(self, position: Int[Tensor, "B T"]) -> "Visibility":
        """The same relation, which also knows where in the context everything stands."""
        return replace(self, position=position)

    def within(
        self, distance: int | None, position: Int[Tensor, "B T"], num_before: int = 0, num_global: int = 0
    ) -> "Visibility":
        """The part of the relation that is within a distance; itself where no positions are farther apart.

        `num_before` positions of the same rows were read before, and are kept.
        """
        if distance is None or num_before + self.row.piece.shape[1] <= distance + num_global + 1:
            return self
        return replace(self, distance=distance, position=position, is_plain=False, num_global=num_global)

    def to(self, device: torch.device | str) -> "Visibility":
        """The same relation on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Visibility":
        """The same with every tensor changed: moved, pinned."""
        others = {name: getattr(self, name) for name in ("ancestors", "is_open", "position")}
        changed = {name: None if value is None else change(value) for name, value in others.items()}
        row = self.whole and replace(self.whole, seen=self.whole.seen.map(change), mine=change(self.whole.mine))
        return replace(self, piece=change(self.piece), whole=row, **changed)


def visibility_of(
    piece: Int[Tensor, "B T"],
    parent: Int[Tensor, " P"] | None = None,
    *,
    is_causal: bool = True,
    is_plain: bool = False,
) -> Visibility:
    """Who sees whom in rows that lie on the host; `parent` is the piece that each piece continues, -1: none."""
    seen = Visibility(piece, None if parent is None else ancestors_of(parent), is_causal, is_plain)
    return replace(seen, lengths=_lengths(seen.root()), spans=spans_of(piece, seen.ancestors))


@no_type_check  # read by the compiler, which cannot read the checks of the tests
def reaches(query: Tensor, key: Tensor, distance: int, num_global: int) -> Tensor:
    """Whether a position is near enough to another, or one of the two is seen from any distance."""
    near = (key - query).abs() <= distance
    return near if num_global == 0 else near | (torch.minimum(query, key) < num_global)


def _runs(values: Int[Tensor, "B T"]) -> tuple[Int[Tensor, " n"], list[int]]:
    """Where neighbours of one value begin in rows laid end to end, and how many they are; no run goes over a row."""
    begins = torch.ones_like(values, dtype=torch.bool)
    begins[:, 1:] = values[:, 1:] != values[:, :-1]
    starts = begins.flatten().nonzero()[:, 0]
    return starts, torch.diff(starts, append=torch.tensor([values.numel()])).tolist()


def _lengths(root: Int[Tensor, "B T"]) -> tuple[int, ...] | None:
    starts, lengths = _runs(root)
    named = torch.stack([starts // root.shape[1], root.flatten()[starts]], dim=1)
    return tuple(lengths) if len(named.unique(dim=0)) == len(named) else None


def spans_of(piece: Int[Tensor, "B T"], ancestors: Bool[Tensor, "P P"] | None = None) -> tuple[Span, ...]:
    """Where each piece of rows on the host lies, and which it continues: the nearest of its ancestors."""
    starts, lengths = _runs(piece)
    places, names = starts.tolist(), piece.flatten()[starts].tolist()
    parents = [-1] * len(names) if ancestors is None else _parents(ancestors)
    found: list[Span] = []
    number: dict[int, int] = {-1: -1}
    for place, length, name in zip(places, lengths, names, strict=True):
        if name >= 0:
            above = parents[name] if ancestors is not None else -1
            while above not in number:  # it has no position here
                above = parents[above]
            number[name] = len(found)
            found.append(Span(place, length, number[above]))
    return tuple(found)


def _parents(ancestors: Bool[Tensor, "P P"]) -> list[int]:
    """The ancestor with the most ancestors of its own; -1: none."""
    depth = ancestors.sum(1)
    above = ancestors & ~torch.eye(len(ancestors), dtype=torch.bool)
    return torch.where(above.any(1), (above * depth).argmax(1), -1).tolist()


def ancestors_of(parent: Int[Tensor, " P"]) -> Bool[Tensor, "P P"] | None:
    """The reflexive closure of `parent` (-1: none), or None where no piece has a parent."""
    if bool((parent < 0).all()):
        return None
    closure = torch.eye(len(parent), dtype=torch.bool)
    for child, above in enumerate(parent.tolist()):
        if above >= 0:  # a parent stands before its children, so its own row is complete
            closure[child] |= closure[above]
    return closure
