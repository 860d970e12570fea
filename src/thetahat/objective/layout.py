"""Lays flat tokens into rows, which is the last step of every factorization."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class PaddedRows:
    """The row and the column of each flat value in a rectangle whose rows are padded on their right."""

    row: Int[Tensor, " N"]
    column: Int[Tensor, " N"]
    shape: tuple[int, int]

    def lay(self, values: Shaped[Tensor, " N"], padding: int) -> Shaped[Tensor, "B T"]:
        """The values in their places."""
        laid = values.new_full(self.shape, padding)
        laid[self.row, self.column] = values
        return laid

    def places(self, kept: Bool[Tensor, " N"]) -> Int[Tensor, " n"] | None:
        """The places of the kept values in the flattened rectangle; None where all are kept."""
        if bool(kept.all()):
            return None
        return (self.row * self.shape[1] + self.column)[kept]


def padded_rows(row: Int[Tensor, " N"], num_rows: int, row_length: int | None = None) -> PaddedRows:
    """Where flat values lie that come row by row; rows are as long as the longest, or `row_length` if that is more."""
    index = torch.arange(len(row))
    starts = torch.ones_like(row, dtype=torch.bool)
    starts[1:] = row[1:] != row[:-1]
    column = index - torch.where(starts, index, 0).cummax(0).values if len(row) else index
    longest = int(column.max()) + 1 if len(column) else 1
    return PaddedRows(row, column, (num_rows, max(longest, row_length or 1)))
