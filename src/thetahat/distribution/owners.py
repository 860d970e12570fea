"""Whole matrices of which each rank has some rows: to the ranks that change them, and back."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

Change = Callable[[Float[Tensor, "m R C"]], Float[Tensor, "m R C"]]  # of whole matrices


@torch.no_grad()
def change_whole(
    pieces: Float[Tensor, "M r C"],
    length: int,
    group: dist.ProcessGroup,
    change: Change,
) -> Float[Tensor, "M r C"]:
    r"""This rank's rows of `change(X)` for M matrices X [R C], of which each rank of a group has some rows.

    Rank o of n gathers the matrices o, o + n, ... and changes them, so that each is changed once and no rank holds all
    of them. Rank k has the rows from $k \lceil R / n \rceil$ on, as torch's `Shard(0)`. Two exchanges.
    """
    n, rank, width = dist.get_world_size(group), dist.get_rank(group), pieces.shape[-1]
    most, turns = -(-length // n), -(-len(pieces) // n)  # rows of a rank, matrices of an owner
    padded = pieces.new_zeros(turns * n, most, width)
    padded[: len(pieces), : pieces.shape[1]] = pieces
    sent = padded.view(turns, n, most, width).transpose(0, 1).contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    mine = received.transpose(0, 1).reshape(turns, n * most, width)
    if owned := len(range(rank, len(pieces), n)):
        mine[:owned, :length] = change(mine[:owned, :length])
    back = torch.empty_like(sent)  # not `received`: where there is one turn, `mine` is a view of that
    dist.all_to_all_single(back, mine.view(turns, n, most, width).transpose(0, 1).contiguous(), group=group)
    return back.transpose(0, 1).reshape(turns * n, most, width)[: len(pieces), : pieces.shape[1]]


def change_columns(
    pieces: Float[Tensor, "M R c"], length: int, group: dist.ProcessGroup, change: Change
) -> Float[Tensor, "M R c"]:
    """The same for matrices of which each rank has some columns."""

    def turned(matrices: Tensor) -> Tensor:
        return change(matrices.mT.contiguous()).mT

    return change_whole(pieces.mT, length, group, turned).mT
