"""Span corruption: a text with spans left out, and what was left out."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from thetahat.core.batch import Packed, Symbols
from thetahat.core.errors import ModelError
from thetahat.core.random import uniform
from thetahat.core.special import SENTINEL
from thetahat.objective.config import Spans
from thetahat.objective.masked import maskable


def with_spans_left_out(packed: Packed, choice: Spans, symbols: Symbols) -> Packed:
    r"""Each piece as a pair: what the encoder reads, with a sentinel for each span left out, and what the decoder says.

    Encoder: $x_1 \langle s_0 \rangle x_4 x_5 \langle s_1 \rangle \ldots$; decoder: $\langle end \rangle
    \langle s_0 \rangle x_2 x_3 \langle s_1 \rangle \ldots \langle end \rangle$. Each token of the decoder but the
    first is a target. A sentinel has the weight and the part of its span's first token, the end those of the last token
    left out; both have 0 bytes. The token before a text is not read where the encoder reads no such token in pairs.
    Raffel et al., Exploring the Limits of Transfer Learning, 2020 (arXiv 1910.10683).
    """
    drawn = leave_out(packed, choice, symbols)
    _check_sentinels(packed, drawn, symbols)
    flat, is_drawn = packed.tokens.tolist(), drawn.tolist()
    tokens, origin, piece, is_source = [], [], [], []
    bounds = torch.searchsorted(packed.piece, torch.arange(len(packed.row) + 1)).tolist()
    for index, (low, high) in enumerate(pairwise(bounds)):
        source, target = _pair(flat, is_drawn, range(low, high), symbols)
        for side, entries in enumerate((source, target)):
            tokens += [token for token, _ in entries]
            origin += [place for _, place in entries]
            piece += [2 * index + side] * len(entries)
            is_source += [side == 0] * len(entries)
    place, is_prompt = torch.tensor(origin), torch.tensor(is_source)
    begins = torch.ones_like(place, dtype=torch.bool)
    begins[1:] = torch.tensor(piece)[1:] != torch.tensor(piece)[:-1]
    number = torch.arange(len(place))
    number = number - torch.where(begins, number, 0).cummax(0).values
    is_given = is_prompt | (number < len(symbols.frames.target.before))
    parent = torch.arange(2 * len(packed.row))
    said = torch.tensor(tokens)
    return Packed(
        tokens=said,
        weight=torch.where(is_given, 0.0, packed.weight[place]),
        num_bytes=torch.where(said == packed.tokens[place], packed.num_bytes[place], 0),  # a sentinel is no text
        position=number,
        part=packed.part[place],
        is_prompt=is_prompt,
        piece=torch.tensor(piece),
        row=packed.row.repeat_interleave(2),
        parent=torch.where(parent % 2 == 1, parent - 1, -1),
        seed=packed.seed.repeat_interleave(2),
        parts=packed.parts,
        origin=place,
    )


def leave_out(packed: Packed, choice: Spans, symbols: Symbols) -> Bool[Tensor, " N"]:
    r"""Which tokens are left out: spans of random lengths, between which and before which something is kept.

    Of the n tokens of a piece that may be left out (`maskable`), in their order, $m$ are, in $s$ spans (`counts`).
    The lengths of the spans are one of the $\binom{m-1}{s-1}$ ways to write $m$ as a sum of $s$ positive numbers, each
    as likely; so are, of $n - m$, those of what is kept. Kept and left out alternate, and what is kept comes first: no
    two spans touch, the first of the n tokens is kept (where n > 1) and the last is left out.
    A token that may not be left out stays where it is. Texts have such tokens only at their ends; one inside a span
    divides it into two, each with its own sentinel. All is drawn from the seed of the piece.
    Raffel et al., 2020 (`random_spans_noise_mask`).
    """
    free = maskable(packed, symbols)
    piece = packed.piece[free]
    size = torch.bincount(piece, minlength=len(packed.row))
    num_left_out, num_spans = counts(size, choice)
    item = torch.arange(len(piece)) - (size.cumsum(0) - size)[piece]  # of each piece: those to keep, then the others
    is_left_out = item >= (size - num_left_out)[piece]
    heap = 2 * piece + is_left_out
    begins_heap = torch.ones_like(is_left_out)
    begins_heap[1:] = heap[1:] != heap[:-1]
    first = begins_heap.nonzero()[:, 0][begins_heap.long().cumsum(0) - 1]  # of its heap
    # an item begins a stretch where its number is among the smallest of its heap; that of the first item is below all
    order = torch.argsort(torch.where(begins_heap, -1.0, uniform(packed.seed[piece], item)), stable=True)
    order = order[torch.argsort(heap[order], stable=True)]
    begins = torch.zeros_like(is_left_out)
    begins[order] = torch.arange(len(piece)) - first < num_spans[piece]
    # the stretches of the two heaps in turn: 0, 2, 4, ... are kept, 1, 3, 5, ... left out
    through = begins.long().cumsum(0)
    order = torch.argsort(2 * (through - through[first]) + is_left_out, stable=True)
    order = order[torch.argsort(piece[order], stable=True)]
    drawn = torch.zeros_like(free)
    drawn[free] = is_left_out[order]
    return drawn


def counts(size: Int[Tensor, " n"], choice: Spans) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """`Spans.counts` of many sizes."""
    known, which = size.unique(return_inverse=True)
    both = torch.tensor([choice.counts(one) for one in known.tolist()], dtype=torch.int64).reshape(-1, 2)
    return both[which, 0], both[which, 1]


def _check_sentinels(packed: Packed, drawn: Bool[Tensor, " N"], symbols: Symbols) -> None:
    begins = drawn.clone()
    begins[1:] &= ~drawn[:-1]  # the first token of a piece is never drawn
    needed, found = int(torch.bincount(packed.piece[begins], minlength=1).max()), len(symbols.sentinels)
    if needed > found:
        raise ModelError(
            f"the vocabulary has no {SENTINEL.format(found)}: {needed} spans of one sequence are left out, and each "
            f"needs a sentinel of its own, from {SENTINEL.format(0)} on",
            cure=f"a tokenizer that has {needed} of them; thetahat train adds what its factorization needs",
        )


def _pair(
    tokens: Sequence[int], drawn: Sequence[bool], places: range, symbols: Symbols
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Source and target of one piece, as (token, the place that it comes from)."""
    source: list[tuple[int, int]] = []
    frames, sentinels = symbols.frames, symbols.sentinels
    target = [(token, places[0]) for token in frames.target.before]
    is_unread = not frames.source.before and tokens[places[0]] == frames.text.before[0]
    num_spans, is_inside, last = 0, False, places[0]
    for place in places[is_unread:]:
        token = tokens[place]
        if drawn[place]:
            if not is_inside:
                sentinel = sentinels[num_spans]
                source.append((sentinel, place))
                target.append((sentinel, place))
                num_spans += 1
            target.append((token, place))
            last = place
        else:
            source.append((token, place))
        is_inside = drawn[place]
    return source, [*target, *((token, last) for token in frames.target.after)]
