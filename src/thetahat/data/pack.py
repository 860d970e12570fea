"""Sequences to pieces, pieces to rows: what the model reads, and which of it counts."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from thetahat.core.batch import Packed
from thetahat.core.errors import ConfigError, DataError
from thetahat.data.config import OverLong, Packing
from thetahat.data.corpus import Corpus

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Piece p is `sequence(document[p])[start[p]:stop[p]]`, in row `row[p]`; all arrays have the shape [P].

    Tokens from `scored_from` on count, earlier ones are context. A causal model reads all but the last token.
    """

    document: Ints
    start: Ints
    scored_from: Ints  # index in the sequence, like start and stop
    stop: Ints
    sequence_tokens: Ints  # targets of the whole sequence that count, over all its pieces
    row: Ints  # ascending
    num_rows: int

    def __len__(self) -> int:
        return len(self.document)

    @property
    def positions(self) -> Ints:
        """What a causal model reads of each piece."""
        return self.stop - self.start - 1

    @property
    def targets(self) -> Ints:
        """How many tokens of each piece count."""
        return self.stop - self.scored_from


@dataclass(frozen=True, slots=True)
class Cut:
    """What the policy for over-long documents did; tokens are targets."""

    policy: str
    context: int
    num_documents: int  # kept, at least in part
    num_tokens: int  # kept
    tokens_cut: int
    documents_cut: int  # split or truncated
    documents_dropped: int

    def __str__(self) -> str:
        noun = "document" if self.num_documents == 1 else "documents"
        kept = f"{self.num_documents:,} {noun} with {self.num_tokens:,} tokens"
        if not self.documents_cut and not self.documents_dropped:
            return f"{kept}, none longer than context={self.context}"
        fate = f"{self.documents_cut:,} cut" if self.documents_cut else f"{self.documents_dropped:,} dropped"
        share = self.tokens_cut / (self.num_tokens + self.tokens_cut)
        lost = f"{self.tokens_cut:,} tokens ({share:.2%}) left out" if self.tokens_cut else "nothing left out"
        return f"{kept}; over_long={self.policy} at context={self.context}: {fate}, {lost}"


def cut(
    lengths: Ints, context: int, policy: OverLong, *, phase: Ints | None = None, name: Callable[[int], str] = str
) -> tuple[Pieces, Cut]:
    r"""The pieces of each document, one a row, and what was left out.

    A sequence of `lengths[i]` = $n + 2$ tokens has the targets 1 to $n + 1$, of which `context` fit in a piece. Under
    "split" target $t$ of document $i$ lies in block $\lfloor (t - 1 + \mathrm{phase}_i) / \mathrm{context} \rfloor$; a
    block also reads the token just before it. Documents that fit stay whole. `name` says whom an error is about.
    """
    targets = lengths - 1
    is_long = targets > context
    if policy == "error" and is_long.any():
        raise _too_long(lengths, context, name)
    if policy == "split":
        pieces = _split(targets, context, np.zeros_like(targets) if phase is None else phase)
    else:
        pieces = _truncate(lengths, context, policy)
    num_tokens = int(pieces.targets.sum())
    is_dropped = policy == "drop"
    report = Cut(
        policy=policy,
        context=context,
        num_documents=len(lengths) - int(is_long.sum()) * is_dropped,
        num_tokens=num_tokens,
        tokens_cut=int(targets.sum()) - num_tokens,
        documents_cut=int(is_long.sum()) * (not is_dropped),
        documents_dropped=int(is_long.sum()) * is_dropped,
    )
    return pieces, report


def windows(lengths: Ints, context: int, stride: int) -> Pieces:
    """Pieces in which each target counts exactly once, with all the context that fits, one a row.

    A document that fits is one piece. Of a longer one the first window counts all of its `context` targets, and each
    one after it the next `stride` (the last: what is left), read with exactly `context` positions.
    """
    if not 1 <= stride <= context:
        raise ConfigError(f"a stride of {stride}", allowed=f"1 to the context, {context}")
    targets = lengths - 1
    num_pieces = 1 + -(-np.maximum(targets - context, 0) // stride)
    document, index = _enumerate(num_pieces)
    total = targets[document]
    scored_from = np.where(index == 0, 1, 1 + context + (index - 1) * stride)
    stop = 1 + np.minimum(total, context + index * stride)
    return _one_a_row(document, np.maximum(stop - 1 - context, 0), scored_from, stop, total)


def lay(pieces: Pieces, capacity: int, packing: Packing) -> Pieces:
    """The same pieces in rows of at most `capacity` positions."""
    rows = best_fit(pieces.positions, capacity) if packing == "best-fit" else np.arange(len(pieces))
    return take(replace(pieces, row=rows, num_rows=int(rows.max(initial=-1)) + 1), np.argsort(rows, kind="stable"))


def take(pieces: Pieces, index: Ints) -> Pieces:
    """The pieces with these indices, in this order, in the rows where they were."""
    return Pieces(
        document=pieces.document[index],
        start=pieces.start[index],
        scored_from=pieces.scored_from[index],
        stop=pieces.stop[index],
        sequence_tokens=pieces.sequence_tokens[index],
        row=pieces.row[index],
        num_rows=pieces.num_rows,
    )


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


def gather(corpus: Corpus, pieces: Pieces, index: Ints) -> Packed:
    """The tokens of these pieces, in this order; neighbours of one row share a row, numbered from 0."""
    chosen = take(pieces, index)
    piece, position = _enumerate(chosen.stop - chosen.start)
    place = chosen.start[piece] + position  # in the sequence
    tokens = corpus.tokens[corpus.offsets[chosen.document[piece]] + place].astype(np.int64)
    _, first, part = np.unique(chosen.document, return_index=True, return_inverse=True)
    kept = zip(chosen.document[first].tolist(), chosen.sequence_tokens[first].tolist(), strict=True)
    parts = tuple(corpus.part(document, num_tokens) for document, num_tokens in kept)
    weight = np.array([one.weight for one in parts])[part[piece]]
    counts = place >= chosen.scored_from[piece]
    changes = np.diff(chosen.row, prepend=chosen.row[:1]) != 0
    return Packed(
        tokens=torch.from_numpy(tokens),
        weight=torch.from_numpy(np.where(counts, weight, 0.0)),
        num_bytes=torch.from_numpy(corpus.token_bytes[tokens]),
        position=torch.from_numpy(position),
        part=torch.from_numpy(part[piece]),
        is_prompt=torch.zeros(len(tokens), dtype=torch.bool),
        piece=torch.from_numpy(piece),
        row=torch.from_numpy(np.cumsum(changes)),
        parent=torch.full((len(index),), -1),
        seed=torch.zeros(len(index), dtype=torch.int64),
        parts=parts,
    )


def _split(targets: Ints, context: int, phase: Ints) -> Pieces:
    shift = np.where(targets > context, phase, 0)
    document, block = _enumerate(-(-(targets + shift) // context))
    first = np.maximum(block * context - shift[document], 0)
    stop = np.minimum((block + 1) * context - shift[document], targets[document])
    return _one_a_row(document, first, first + 1, stop + 1, targets[document])


def _truncate(lengths: Ints, context: int, policy: OverLong) -> Pieces:
    document = np.arange(len(lengths))
    if policy == "drop":
        document = document[lengths - 1 <= context]
    whole = lengths[document]
    kept = np.minimum(whole - 1, context)
    start = whole - 1 - kept if policy == "truncate-left" else np.zeros_like(kept)
    return _one_a_row(document, start, start + 1, start + 1 + kept, kept)


def _one_a_row(document: Ints, start: Ints, scored_from: Ints, stop: Ints, sequence_tokens: Ints) -> Pieces:
    return Pieces(document, start, scored_from, stop, sequence_tokens, np.arange(len(document)), len(document))


def _enumerate(counts: Ints) -> tuple[Ints, Ints]:
    """(i, j) for each i and each j < counts[i]."""
    outer = np.repeat(np.arange(len(counts)), counts)
    return outer, np.arange(len(outer)) - np.repeat(np.cumsum(counts) - counts, counts)


def _too_long(lengths: Ints, context: int, name: Callable[[int], str]) -> DataError:
    longest, num_long = int(lengths.argmax()), int((lengths - 1 > context).sum())
    return DataError(
        f"document {name(longest)} has {lengths[longest] - 1} tokens to predict where the context holds {context}; "
        f"{num_long} of {len(lengths)} documents are too long",
        cure="data.over_long=split (or truncate-left, truncate-right, drop), or a larger data.context",
    )
