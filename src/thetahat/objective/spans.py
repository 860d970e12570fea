"""Span corruption: a text with spans left out, and what was left out."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from thetahat.core.batch import SENTINEL, Packed, Symbols
from thetahat.core.errors import ModelError
from thetahat.objective.config import Masked, Spans
from thetahat.objective.masked import choose


def with_spans_left_out(packed: Packed, choice: Spans, symbols: Symbols) -> Packed:
    r"""Each piece as a pair: a source in which a sentinel stands for every span left out, and a target that says them.

    Source: $x_1 \langle s_0 \rangle x_4 x_5 \langle s_1 \rangle \ldots$; target: $\langle end \rangle
    \langle s_0 \rangle x_2 x_3 \langle s_1 \rangle \ldots \langle end \rangle$, asked token by token, sentinels too.
    A sentinel weighs and counts for its span's first token, the end for the last one left out. What is left out is
    drawn from the seed of the piece, in spans of geometric length with the mean `mean_span`; neighbours join.
    Raffel et al., Exploring the Limits of Transfer Learning, 2020 (arXiv 1910.10683).
    """
    drawn = choose(packed, Masked(rate=choice.rate, unit="span", mean_span=choice.mean_span), _maskless(symbols))
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
    parent = torch.arange(2 * len(packed.row))
    return Packed(
        tokens=torch.tensor(tokens),
        weight=torch.where(is_prompt | begins, 0.0, packed.weight[place]),
        num_bytes=packed.num_bytes[place],
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


def _maskless(symbols: Symbols) -> Symbols:
    if not symbols.sentinels:
        raise ModelError(
            f"the vocabulary has no {SENTINEL.format(0)}, which stands for a span that is left out",
            cure="data.tokenizer=none trains one that has them; or add them to the special tokens of yours",
        )
    return symbols


def _pair(
    tokens: Sequence[int], drawn: Sequence[bool], places: range, symbols: Symbols
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Source and target of one piece, as (token, the place that it comes from)."""
    source: list[tuple[int, int]] = []
    target = [(symbols.end_of_text, places[0])]
    num_spans, is_inside, last = 0, False, places[0]
    for place in places:
        token = tokens[place]
        if drawn[place]:
            if not is_inside:
                sentinel = _sentinel(symbols, num_spans)
                source.append((sentinel, place))
                target.append((sentinel, place))
                num_spans += 1
            target.append((token, place))
            last = place
        else:
            source.append((token, place))
        is_inside = drawn[place]
    return source, [*target, (symbols.end_of_text, last)]


def _sentinel(symbols: Symbols, number: int) -> int:
    if number >= len(symbols.sentinels):
        raise ModelError(
            f"a sequence needs more than the {len(symbols.sentinels)} sentinels of the vocabulary",
            cure="a smaller data.context, a lower objective.factorization.rate or a larger mean_span",
        )
    return symbols.sentinels[number]
