"""Sequences to pieces, pieces to rows: what the model reads, and which of it counts."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, final

import numpy as np

from thetahat.core.errors import ConfigError, DataError
from thetahat.data.config import OverLong, Packing
from thetahat.data.corpus.corpus import Ints
from thetahat.data.order.fit import MOST, fit_of

Column = Any  # Ints; where it is mapped it may be of int32
_SHOWN = 9  # names of documents in an error, beside the first


@dataclass(frozen=True, slots=True)
class Pieces:
    """Piece p is `corpus.span(span[p])[start[p]:stop[p]]`, in row `row[p]`; all arrays have the shape [P].

    Tokens from `scored_from` on count, earlier ones are context. Pieces of one `unit` stand together, in one row.
    """

    span: Column
    start: Column
    scored_from: Column  # index in the span, like start and stop
    stop: Column
    parent: Column  # how many pieces before this one its parent stands; 0: it has none
    unit: Column  # neighbours with other numbers are other units
    size: Column  # positions that it takes up in a row
    row: Column  # ascending
    num_rows: int

    def __len__(self) -> int:
        return len(self.span)

    @property
    def positions(self) -> Ints:
        """What a causal model reads of each piece: all but its last token."""
        return (self.stop - self.start - 1).astype(np.int64, copy=False)

    @property
    def targets(self) -> Ints:
        """How many tokens of each piece may count."""
        return (self.stop - self.scored_from).astype(np.int64, copy=False)

    @property
    def unit_starts(self) -> Ints:
        """The first piece of each unit."""
        return np.flatnonzero(np.diff(self.unit, prepend=-1))


@dataclass(frozen=True, slots=True)
class Cut:
    """What the policy for over-long documents did; tokens are targets, each of them the label of a text or a token."""

    policy: str
    context: int
    num_documents: int  # kept, at least in part
    num_tokens: int  # kept
    tokens_cut: int
    documents_cut: int  # split or truncated
    documents_dropped: int
    prompt_cut: int = 0  # tokens of prompts
    documents_without_weight: int = 0  # not read, since nothing in them counts
    are_labels: bool = False  # whether targets are labels, and what is read are texts

    def __str__(self) -> str:
        without = self.documents_without_weight
        return f"{self._fate()}; {without:,} of weight 0 not read" if without else self._fate()

    def _fate(self) -> str:
        noun = "document" if self.num_documents == 1 else "documents"
        kept = f"{self.num_documents:,} {noun} with {self.num_tokens:,} {'labels' if self.are_labels else 'tokens'}"
        prompts = "the texts" if self.are_labels else "prompts and earlier messages"
        if not self.documents_cut and not self.documents_dropped and not self.prompt_cut and not self.tokens_cut:
            return f"{kept}, none longer than context={self.context}"
        share = self.tokens_cut / (self.num_tokens + self.tokens_cut)
        fates = [
            f"{self.documents_cut:,} {'split' if self.policy == 'split' else 'cut'}" if self.documents_cut else "",
            f"{self.documents_dropped:,} dropped" if self.documents_dropped else "",
            f"{self.tokens_cut:,} targets ({share:.2%}) left out" if self.tokens_cut else "no target left out",
            f"{self.prompt_cut:,} tokens of {prompts} not read" if self.prompt_cut else "",
        ]
        return f"{kept}; over_long={self.policy} at context={self.context}: {', '.join(filter(None, fates))}"


def cut(
    lengths: Ints,
    context: Ints | int,
    policy: OverLong,
    *,
    phase: Ints | None = None,
    name: Callable[[int], str] = str,
    added: int = 0,
) -> tuple[Pieces, Cut]:
    r"""The pieces of each span, one a row, and what was left out.

    A span of `lengths[i]` = $n + 2$ tokens has the targets 1 to $n + 1$, of which `context` (one number, or one a span)
    fit in a piece. Under "split" target $t$ of span $i$ lies in block
    $\lfloor (t - 1 + \mathrm{phase}_i) / \mathrm{context} \rfloor$; a block also reads the token just before it. Spans
    that fit stay whole. `name` says whom an error is about, `added` how many positions a row has beside targets.
    """
    targets, room = lengths - 1, np.broadcast_to(context, lengths.shape)
    is_long = targets > room
    if policy == "error" and is_long.any():
        raise _too_long(targets, room, name, added)
    if policy == "split":
        pieces = _split(targets, room, np.zeros_like(targets) if phase is None else phase)
    else:
        pieces = _truncate(lengths, room, policy)
    num_tokens = int(pieces.targets.sum())
    is_dropped = policy == "drop"
    report = Cut(
        policy=policy,
        context=int(room.max(initial=0)),
        num_documents=len(lengths) - int(is_long.sum()) * is_dropped,
        num_tokens=num_tokens,
        tokens_cut=int(targets.sum()) - num_tokens,
        documents_cut=int(is_long.sum()) * (not is_dropped),
        documents_dropped=int(is_long.sum()) * is_dropped,
    )
    return pieces, report


def windows(lengths: Ints, context: int, stride: int) -> Pieces:
    """Pieces in which each target counts exactly once, with all the context that fits, one a row.

    A span that fits is one piece. Of a longer one the first window counts all of its `context` targets, and each
    one after it the next `stride` (the last: what is left), read with exactly `context` positions.
    """
    if not 1 <= stride <= context:
        raise ConfigError(f"a stride of {stride}", allowed=f"1 to the context, {context}")
    targets = lengths - 1
    num_pieces = 1 + -(-np.maximum(targets - context, 0) // stride)
    span, index = enumerate_counts(num_pieces)
    scored_from = np.where(index == 0, 1, 1 + context + (index - 1) * stride)
    stop = 1 + np.minimum(targets[span], context + index * stride)
    return one_a_row(span, np.maximum(stop - 1 - context, 0), scored_from, stop)


def lay(pieces: Pieces, capacity: int, packing: Packing) -> Pieces:
    """The same pieces in rows of at most `capacity` positions, those of one unit in one row."""
    starts = pieces.unit_starts
    sizes = np.add.reduceat(pieces.size, starts) if len(starts) else pieces.size
    row_of_unit = best_fit(sizes, capacity) if packing == "best-fit" else np.arange(len(starts))
    row = np.repeat(row_of_unit, np.diff(starts, append=len(pieces)))
    laid = replace(pieces, row=row, num_rows=int(row.max(initial=-1)) + 1)
    return take(laid, np.argsort(row, kind="stable"))


def num_rows_of(pieces: Pieces, capacity: int, packing: Packing) -> int:
    """How many rows they take up, which does not depend on their order."""
    starts = pieces.unit_starts
    if packing == "none":
        return len(starts)
    return int(best_fit(np.add.reduceat(pieces.size, starts) if len(starts) else starts, capacity).max(initial=-1)) + 1


def take(pieces: Pieces, index: Ints) -> Pieces:
    """The pieces with these indices, in this order, in the rows where they were; whole units, or parents are lost."""
    names = [one.name for one in fields(Pieces) if one.name != "num_rows"]
    arrays = {name: getattr(pieces, name)[index].astype(np.int64, copy=False) for name in names}
    return Pieces(**arrays, num_rows=pieces.num_rows)


def joined(several: Sequence[Pieces]) -> Pieces:
    """All of them, row by row; their rows are numbered together, and no unit is in two of them."""
    if len(several) == 1:
        return several[0]
    units = np.cumsum([0, *(int(pieces.unit.max(initial=-1)) + 1 for pieces in several)])
    apart = [replace(pieces, unit=pieces.unit + first) for pieces, first in zip(several, units[:-1], strict=True)]
    names = [one.name for one in fields(Pieces) if one.name != "num_rows"]
    arrays = {name: np.concatenate([getattr(pieces, name) for pieces in apart]) for name in names}
    together = Pieces(**arrays, num_rows=sum(pieces.num_rows for pieces in several))
    return take(together, np.argsort(together.row, kind="stable"))


def total(cuts: Sequence[Cut]) -> Cut:
    """What the policy did with all parts of a corpus."""
    counts = [one.name for one in fields(Cut) if one.name not in {"policy", "context", "are_labels"}]
    return replace(cuts[0], **{name: sum(getattr(cut, name) for cut in cuts) for name in counts})


def unit_pieces(pieces: Pieces, units: Ints) -> Ints:
    """The indices of the pieces of these units, which are numbered by their order."""
    starts = pieces.unit_starts
    counts = np.diff(starts, append=len(pieces))[units]
    unit, place = enumerate_counts(counts)
    return starts[units][unit] + place


def best_fit(positions: Ints, capacity: int) -> Ints:
    """The row of each piece: longest pieces first, each into the fullest row that has room, else into a new one.

    Best-fit decreasing (Johnson 1973); ties go to the earlier piece and to the row that changed last. Pieces of one
    size are placed together: a row with room r that takes one of size s and still has room for another is again the
    fullest, so it takes r // s of them. A million pieces take a fraction of a second.
    """
    order = np.argsort(-positions, kind="stable")
    sizes = positions[order]
    if len(sizes) and not 1 <= sizes[-1] <= sizes[0] <= capacity:
        raise ValueError(f"pieces of {sizes[-1]} to {sizes[0]} positions do not fit in rows of {capacity}")
    rows = np.empty(len(sizes), np.int64)
    free = _FreeRoom(capacity)
    edges = [*np.flatnonzero(np.diff(sizes, prepend=-1)).tolist(), len(sizes)]
    for low, high in itertools.pairwise(edges):
        size = int(sizes[low])
        while low < high:
            room, chosen = free.take(size, high - low)
            each = room // size
            placed = min(high - low, each * len(chosen))
            rows[order[low : low + placed]] = np.repeat(chosen, each)[:placed]
            low += placed
            free.put(room - each * size, chosen[:-1])
            free.put(room - (placed - each * (len(chosen) - 1)) * size, chosen[-1:])  # the last may have got fewer
    return rows


@final
class _FreeRoom:
    """Rows by the room that is left in them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._num_rows = 0
        self._rows: dict[int, list[int]] = {}  # the one that changed last at the end
        self._rooms = 0  # bit r is set where some row has room r

    def take(self, size: int, num_pieces: int) -> tuple[int, list[int]]:
        """Enough rows for these pieces, or as many as there are of the least room that is enough for one."""
        enough = self._rooms >> size
        room = size + (enough & -enough).bit_length() - 1 if enough else self._capacity
        needed = -(-num_pieces // (room // size))
        if not enough:
            self._num_rows += needed
            return room, list(range(self._num_rows - needed, self._num_rows))
        rows = self._rows[room]
        chosen = rows[-needed:][::-1]
        del rows[-needed:]
        if not rows:
            self._rooms &= ~(1 << room)
        return room, chosen

    def put(self, room: int, rows: list[int]) -> None:
        if rows:
            self._rows.setdefault(room, []).extend(rows)
            self._rooms |= 1 << room


def _split(targets: Ints, context: Ints, phase: Ints) -> Pieces:
    shift = np.where(targets > context, phase, 0)
    span, block = enumerate_counts(-(-(targets + shift) // context))
    first = np.maximum(block * context[span] - shift[span], 0)
    stop = np.minimum((block + 1) * context[span] - shift[span], targets[span])
    return one_a_row(span, first, first + 1, stop + 1)


def _truncate(lengths: Ints, context: Ints, policy: OverLong) -> Pieces:
    span = np.arange(len(lengths))
    if policy == "drop":
        span = span[lengths - 1 <= context]
    whole = lengths[span]
    kept = np.minimum(whole - 1, context[span])
    start = whole - 1 - kept if policy in {"truncate-left", "keep-last-turns"} else np.zeros_like(kept)
    return one_a_row(span, start, start + 1, start + 1 + kept)


def one_a_row(span: Ints, start: Ints, scored_from: Ints, stop: Ints) -> Pieces:
    """Pieces without parents, each a unit in a row of its own."""
    index = np.arange(len(span))
    return Pieces(span, start, scored_from, stop, np.zeros_like(index), index, stop - start - 1, index, len(index))


def enumerate_counts(counts: Ints) -> tuple[Ints, Ints]:
    """(i, j) for each i and each j < counts[i]."""
    outer = np.repeat(np.arange(len(counts)), counts)
    return outer, np.arange(len(outer)) - np.repeat(np.cumsum(counts) - counts, counts)


def _too_long(targets: Ints, room: Ints, name: Callable[[int], str], added: int) -> DataError:
    order = np.argsort(room - targets, kind="stable")[: int((targets > room).sum())]
    longest, *others = order.tolist()
    named = ", ".join(f"{name(one)} ({targets[one]})" for one in others[:_SHOWN])
    named += f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    fit = fit_of(targets + added, "data.context", int(room[longest]) + added)
    whole = f"data.context={fit.whole}, which holds all; or " if fit.whole <= MOST and len(targets) > 1 else ""
    told = f": {fit.told}" if len(targets) > 1 else ", or a larger data.context"
    return DataError(
        f"document {name(longest)} has {targets[longest]} tokens to predict where the context holds {room[longest]}; "
        f"{len(order)} of {len(targets)} documents are too long{f', also {named}' if named else ''}",
        cure=f"{whole}data.over_long=split (or truncate-left, truncate-right, drop){told}",
    )
