"""Fill-in-the-middle: a text in which a span was moved behind what follows it."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from thetahat.core.batch import Packed, Symbols
from thetahat.core.errors import ModelError
from thetahat.core.random import uniform
from thetahat.objective.config import INFILLING, FillInTheMiddle


def with_middle_moved(packed: Packed, choice: FillInTheMiddle, symbols: Symbols) -> Packed:
    r"""The same pieces, of which about the share `rate` reads prefix, suffix, middle (PSM), each behind its sentinel.

    Of a piece of $m$ tokens $x_1 \ldots x_m$ behind its first and before what closes it, two
    cuts $0 \le a \le b \le m$ are drawn: the smaller and the larger of two numbers, each uniform over 0 to m. It reads
    first $\langle pre \rangle\, x_1 \ldots x_a\, \langle suf \rangle\, x_{b+1} \ldots x_m\, \langle mid \rangle\,
    x_{a+1} \ldots x_b$ end. Sentinels are read and have loss weight 0, so that every token is a target once, as in a
    causal piece, with its own weight: the sum is $\log \Pr(\mathrm{pre}) + \log \Pr(\mathrm{suf} \mid \mathrm{pre}) +
    \log \Pr(\mathrm{mid}, \mathrm{end} \mid \mathrm{pre}, \mathrm{suf})$, given where the cuts are. Pieces of records
    with a prompt, and those that branch, stay causal. All is drawn from the seed of the piece.
    Bavarian et al., Efficient Training of Language Models to Fill in the Middle, 2022 (arXiv 2207.14255).
    """
    if missing := [name for name in INFILLING if name not in symbols.special]:
        cure = "a tokenizer that has it; thetahat train adds what its factorization needs"
        raise ModelError(f"the vocabulary has no {missing[0]}, which stands between the parts of a text", cure=cure)
    size = torch.bincount(packed.piece, minlength=len(packed.row))
    start = size.cumsum(0) - size
    is_moved = _may_move(packed) & (uniform(packed.seed, 0) < choice.rate)
    place = torch.arange(len(packed.piece)) - start[packed.piece]
    behind = place >= size[packed.piece] - len(symbols.frames.text.after)
    is_end = behind & symbols.is_special[packed.tokens] & (place > 0)
    room = size - 1 - torch.zeros_like(size).index_add_(0, packed.piece, is_end.long())
    drawn = torch.stack([uniform(packed.seed, 1), uniform(packed.seed, 2)])
    low, high = (drawn * (room + 1)).long().sort(0).values[:, packed.piece]
    # 0: the first token; 1, 3, 5: the sentinels, each before 2: prefix, 4: suffix, 6: middle; 7: the end
    rank = torch.where(place <= low, 2, torch.where(place <= high, 6, 4))
    rank = torch.where(place == 0, 0, torch.where(is_end, 7, rank)) * is_moved[packed.piece]
    moved = is_moved.nonzero()[:, 0]
    count, added = 3 * len(moved), start[moved].repeat(3)
    order = torch.argsort(torch.cat([rank, torch.tensor([1, 3, 5]).repeat_interleave(len(moved))]), stable=True)
    piece = torch.cat([packed.piece, moved.repeat(3)])
    order = order[torch.argsort(piece[order], stable=True)]
    origin = torch.cat([torch.arange(len(place)), added])[order]
    sentinels = torch.tensor([symbols.special[name] for name in INFILLING]).repeat_interleave(len(moved))
    piece, is_added = piece[order], order >= len(place)
    longer = size + 3 * is_moved
    return replace(
        packed,
        tokens=torch.cat([packed.tokens, sentinels])[order],
        weight=torch.cat([packed.weight, packed.weight.new_zeros(count)])[order],
        num_bytes=torch.cat([packed.num_bytes, packed.num_bytes.new_zeros(count)])[order],
        position=packed.position[start][piece] + torch.arange(len(piece)) - (longer.cumsum(0) - longer)[piece],
        part=packed.part[origin],
        is_prompt=packed.is_prompt[origin] | is_added,
        piece=piece,
        origin=origin,
    )


def _may_move(packed: Packed) -> Bool[Tensor, " P"]:
    """Whether a piece is a whole text: it has no prompt, no parent and no branches."""
    has_prompt = packed.parts.has_prompt[packed.part]
    is_alone = packed.parent < 0
    is_alone[packed.parent[packed.parent >= 0]] = False
    is_alone[packed.piece[has_prompt | packed.is_prompt]] = False
    return is_alone
