"""A factorization turns packed sequences into inputs, targets and loss weights.

It is a pure function of what is packed: everything random is drawn from the seed of each piece.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetahat.core.batch import Batch, Inputs, Packed, Source, Symbols
from thetahat.core.random import uniform
from thetahat.core.visibility import Visibility, visibility_of
from thetahat.objective.config import (
    Causal,
    Conditional,
    FillInTheMiddle,
    Labels,
    Masked,
    ObjectiveConfig,
    Prefix,
    Spans,
)
from thetahat.objective.future import future_targets
from thetahat.objective.infilling import with_middle_moved
from thetahat.objective.layout import PaddedRows, padded_rows
from thetahat.objective.masked import masked
from thetahat.objective.spans import with_spans_left_out
from thetahat.objective.weights import counted_weights


def factor(packed: Packed, objective: ObjectiveConfig, symbols: Symbols, row_length: int | None = None) -> Batch:
    """The inputs and targets of these pieces under the objective, in rows padded to the longest or to `row_length`."""
    match objective.factorization:
        case Causal():
            return causal(packed, objective, row_length)
        case Prefix():
            return prefix(packed, objective, row_length)
        case FillInTheMiddle() as choice:
            return causal(with_middle_moved(packed, choice, symbols), objective, row_length)
        case Masked() as choice:
            return masked(packed, objective, choice, symbols, row_length)
        case Conditional():
            return conditional(packed, objective, row_length)
        case Spans() as choice:
            return conditional(with_spans_left_out(packed, choice, symbols), objective, row_length)
        case Labels():
            return labels(packed, objective, row_length)


def causal(packed: Packed, objective: ObjectiveConfig | None = None, row_length: int | None = None) -> Batch:
    r"""$\log \Pr(x) = \sum_j \log \Pr(x_j \mid x_{<j})$, all positions in one pass (teacher forcing).

    Each piece of n tokens has n - 1 targets: position j reads token j and predicts token j + 1. Nothing is
    predicted across a piece's end. A piece with a parent sees what the parent and its ancestors read, so that branches
    share a prefix that is read once.
    """
    read = (packed.piece[:-1] == packed.piece[1:]).nonzero()[:, 0]  # the last token of a piece is only ever a target
    rows = padded_rows(packed.row[packed.piece[read]], _num_rows(packed), row_length)
    visibility = visibility_of(rows.lay(packed.piece[read], -1), packed.parent, is_plain=_is_plain(packed.row))
    objective = objective or ObjectiveConfig()
    weights = counted_weights(packed, objective)
    batch = batch_of(packed, rows, read, read + 1, weights[read + 1], visibility)
    number = len(objective.future)
    return replace(batch, future=future_targets(packed, rows, read, weights, number)) if number else batch


def prefix(packed: Packed, objective: ObjectiveConfig, row_length: int | None = None, *, draws: bool = True) -> Batch:
    r"""$\log \Pr(y \mid x)$ by one stream in which all of x sees all of x, and y sees x and what came before.

    x is what stands before the first target; where branches share it, each of them reads its last token. In a piece of
    a record without a prompt the first m of n tokens serve as one, with loss weight 0; m is uniform over 1 to n - 1 and
    drawn from the seed. Without `draws` such a piece is read causally, as in scoring. A piece without a prompt is read
    causally, too, where the prompt of its record lies in an earlier piece or was cut.
    Raffel et al., Exploring the Limits of Transfer Learning, 2020 (prefix LM).
    """
    is_open = _prompts(packed, draws=draws)
    batch = causal(replace(packed, weight=torch.where(is_open, 0.0, packed.weight)), objective, row_length)
    # a position reads what is open and predicts what is not: the target itself is never open
    reads_open = is_open[(batch.origin - 1).clamp(min=0)] & (batch.inputs.visibility.piece >= 0)
    visibility = replace(batch.inputs.visibility, is_open=reads_open, is_plain=False)
    return replace(batch, inputs=replace(batch.inputs, visibility=visibility))


def conditional(packed: Packed, objective: ObjectiveConfig, row_length: int | None = None) -> Batch:
    r"""$\log \Pr(y \mid x) = \sum_j \log \Pr(y_j \mid y_{<j}, x)$: an encoder reads x at once, a decoder predicts y.

    The encoder reads pieces without a parent, each of them whole. The decoder reads each other piece, which sees the
    encoder's states of its parent and its own earlier tokens. Vaswani et al., Attention Is All You Need, 2017.
    """
    is_source = packed.parent[packed.piece] < 0
    num_rows = _num_rows(packed)
    given = is_source.nonzero()[:, 0]
    given_rows = padded_rows(packed.row[packed.piece[given]], num_rows, row_length)
    given_piece = given_rows.lay(packed.piece[given], -1)
    source = Inputs(
        given_rows.lay(packed.tokens[given], 0),
        given_rows.lay(packed.position[given], 0),
        visibility_of(given_piece, is_causal=False),
    )
    continues = (packed.piece[:-1] == packed.piece[1:]) & ~is_source[1:]
    read = continues.nonzero()[:, 0]
    rows = padded_rows(packed.row[packed.piece[read]], num_rows, row_length)
    piece = packed.piece[read]
    visibility = visibility_of(rows.lay(piece, -1), is_plain=_is_plain(packed.row[packed.parent >= 0]))
    batch = batch_of(packed, rows, read, read + 1, counted_weights(packed, objective)[read + 1], visibility)
    return replace(batch, inputs=replace(batch.inputs, source=Source(source, rows.lay(packed.parent[piece], -1))))


def labels(packed: Packed, objective: ObjectiveConfig, row_length: int | None = None) -> Batch:
    r"""$\log \Pr(\mathrm{label} \mid x)$: all of x is read at once, and the state at its first position predicts.

    The last token of a piece is the index of its label, not a token of the vocabulary. Devlin et al., BERT, 2019.
    """
    piece = packed.piece
    is_last = torch.ones_like(piece, dtype=torch.bool)
    is_last[:-1] = piece[1:] != piece[:-1]
    is_first = torch.ones_like(piece, dtype=torch.bool)
    is_first[1:] = piece[1:] != piece[:-1]
    read = (~is_last).nonzero()[:, 0]
    label_of_piece = is_last.nonzero()[:, 0]
    rows = padded_rows(packed.row[piece[read]], _num_rows(packed), row_length)
    visibility = visibility_of(rows.lay(piece[read], -1), is_causal=False)
    target = label_of_piece[piece[read]]
    weights = torch.where(is_first[read], counted_weights(packed, objective)[target], 0.0)
    return batch_of(packed, rows, read, target, weights, visibility)


def batch_of(
    packed: Packed,
    rows: PaddedRows,
    read: Int[Tensor, " n"],
    target: Int[Tensor, " n"],
    weights: Float[Tensor, " n"],
    visibility: Visibility,
) -> Batch:
    """Rows that read the tokens at `read` and predict those at `target`, with the loss weights `weights`."""
    return Batch(
        inputs=Inputs(rows.lay(packed.tokens[read], 0), rows.lay(packed.position[read], 0), visibility),
        targets=rows.lay(packed.tokens[target], 0),
        weights=rows.lay(weights, 0),
        part=rows.lay(packed.part[target], 0),
        origin=rows.lay(target if packed.origin is None else packed.origin[target], 0),
        num_bytes=rows.lay(packed.num_bytes[target], 0),
        parts=packed.parts,
        supervised=rows.places(weights != 0),
    )


def _num_rows(packed: Packed) -> int:
    return int(packed.row[-1]) + 1 if len(packed.row) else 0


def _is_plain(row: Int[Tensor, " P"]) -> bool:
    """Whether no two of the pieces lie in one row."""
    return bool((row[1:] != row[:-1]).all())


def _prompts(packed: Packed, *, draws: bool) -> Bool[Tensor, " N"]:
    """The prompt of each piece that has no parent; in a record without one, as many first tokens as are drawn.

    A prompt ends at the first target. Later context, such as the next turn of a user, depends on the targets before
    it, so these targets must not see it.
    """
    num_pieces, is_root = len(packed.row), packed.parent < 0
    given = torch.zeros(num_pieces, dtype=torch.int64).index_add_(0, packed.piece, packed.is_prompt.long())
    size = torch.bincount(packed.piece, minlength=num_pieces)
    starts = size.cumsum(0) - size
    place = torch.arange(len(packed.piece)) - starts[packed.piece]
    targets = (~packed.is_prompt).long().cumsum(0)
    is_leading = targets == targets[starts][packed.piece]  # the first token is not predicted, so it is no target
    drawn = 1 + (uniform(packed.seed, 0) * (size - 1)).long() if draws else torch.zeros_like(size)
    has_prompt = packed.parts.has_prompt[packed.part]
    drawn = drawn.index_fill(0, packed.piece[has_prompt], 0)
    is_drawn = place < drawn[packed.piece]
    return torch.where((given > 0)[packed.piece], is_leading, is_drawn) & is_root[packed.piece]
