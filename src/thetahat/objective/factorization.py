"""A factorization turns packed sequences into what is read, what is asked and what each answer counts for."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetahat.core.batch import Batch, Inputs, Packed
from thetahat.core.visibility import Visibility, ancestors_of

Normalization = Literal["token", "sequence", "sum"]


def causal(packed: Packed, normalization: Normalization = "token", width: int | None = None) -> Batch:
    r"""$\log \Pr(x) = \sum_j \log \Pr(x_j \mid x_{<j})$, all positions in one pass (teacher forcing).

    Each piece of n tokens asks n - 1 questions: position j reads token j and is asked for token j + 1. Nothing is
    asked across a piece's end. Rows are padded at their end to the longest, or to `width` positions.
    """
    is_read = packed.piece[:-1] == packed.piece[1:]  # the last token of a piece is only ever an answer
    read = is_read.nonzero()[:, 0]
    answer = read + 1
    row = packed.row[packed.piece[read]]
    column = _place_within_row(row)
    num_rows = int(packed.row[-1]) + 1 if len(packed.row) else 0
    shape = (num_rows, max(int(column.max()) + 1 if len(column) else 1, width or 1))

    def lay(values: Tensor, padding: int) -> Tensor:
        laid = values.new_full(shape, padding)
        laid[row, column] = values
        return laid

    piece = lay(packed.piece[read], -1)
    return Batch(
        inputs=Inputs(
            tokens=lay(packed.tokens[read], 0),
            position=lay(packed.position[read], 0),
            visibility=Visibility(piece, ancestors_of(packed.parent), is_plain=_is_plain(packed.row)),
        ),
        targets=lay(packed.tokens[answer], 0),
        weights=lay(counted_weights(packed, normalization)[answer], 0),
        part=lay(packed.part[answer], 0),
        origin=lay(answer, 0),
        parts=packed.parts,
    )


def counted_weights(packed: Packed, normalization: Normalization) -> Float[Tensor, " N"]:
    r"""What each token counts for, float64: $w_i$, or $w_i / n$ with n the counted tokens of i's whole sequence.

    `token` weighs every token alike, `sequence` every sequence alike, wherever and with whomever its pieces lie.
    `sum` weighs like `token`; it differs by its divisor, which is 1.
    """
    weight = packed.weight.to(torch.float64)
    if normalization != "sequence":
        return weight
    counts = torch.tensor([part.record_tokens for part in packed.parts], dtype=torch.float64)
    return weight / counts[packed.part]


def _place_within_row(row: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """0, 1, 2, ... from the start of each run of equal rows."""
    index = torch.arange(len(row))
    starts = torch.ones_like(row, dtype=torch.bool)
    starts[1:] = row[1:] != row[:-1]
    return index - torch.where(starts, index, 0).cummax(0).values if len(row) else index


def _is_plain(row: Int[Tensor, " P"]) -> bool:
    return bool((row[1:] != row[:-1]).all())
