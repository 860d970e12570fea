"""Rows that several ranks read together: each has some of their positions, and sees the keys of all.

Every rank of a group computes the same rows: its queries are its own, keys and values are gathered from all (Llama 3,
2024, arXiv 2407.21783, section 3.3.2). Who sees whom is data, so packed documents, trees, prefixes and windows need no
case of their own. Of 2 C chunks a rank has the r-th and the r-th from the end: causal attention costs all ranks alike.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from thetahat.core.batch import Batch, FutureTargets, Inputs, Source
from thetahat.core.visibility import Chunk, Row, Visibility, spans_of
from thetahat.distribution.mesh import Share


def cut(batch: Batch, share: Share, group: dist.ProcessGroup) -> Batch:
    """This rank's positions of a batch on the host. Rows are padded to a multiple of twice the size of the group."""
    mine = places(batch.targets.shape[1], share)
    weights = _taken(batch.weights, mine, 0)
    others = {name: _taken(getattr(batch, name), mine, 0) for name in ("targets", "part", "origin", "num_bytes")}
    inputs = _cut(batch.inputs, share, group)
    if batch.inputs.source is not None:
        piece = _taken(batch.inputs.source.piece, mine, -1)
        inputs = replace(inputs, source=Source(_cut(batch.inputs.source.inputs, share, group), piece))
    supervised = (weights.flatten() != 0).nonzero()[:, 0]
    future = tuple(_future(one, batch.targets.shape[1], mine) for one in batch.future)
    return replace(batch, inputs=inputs, weights=weights, **others, supervised=supervised, future=future, whole=batch)


def _future(targets: FutureTargets, length: int, mine: Int[Tensor, " t"]) -> FutureTargets:
    """Those that are predicted from one of these columns, of rows of this length."""
    here = torch.full((max(length, int(mine.max()) + 1),), -1).index_put_((mine,), torch.arange(len(mine)))
    row, column = targets.place // length, here[targets.place % length]
    counts = column >= 0
    return FutureTargets((row * len(mine) + column)[counts], targets.target[counts], targets.weight[counts])


def places(length: int, share: Share) -> Int[Tensor, " t"]:
    """The columns of a rank, in their order; some may lie behind a row of this length."""
    size = -(-length // (2 * share.size))
    first, second = share.rank, 2 * share.size - 1 - share.rank
    return torch.cat([torch.arange(size) + one * size for one in (first, second)])


def _cut(inputs: Inputs, share: Share, group: dist.ProcessGroup) -> Inputs:
    length, seen = inputs.tokens.shape[1], inputs.visibility
    mine = places(length, share)
    everyone = torch.arange(len(mine) * share.size)
    piece = _taken(seen.piece, everyone, -1)
    row = replace(
        seen,
        piece=piece,
        is_open=None if seen.is_open is None else _taken(seen.is_open, everyone, False),
        position=_taken(inputs.position, everyone, 0),
        is_plain=False,
        lengths=None,
        spans=spans_of(piece, seen.ancestors),
    )
    order = torch.cat([places(length, Share(rank, share.size)) for rank in range(share.size)]).argsort()
    gathered = partial(_Gathered.apply, order, share, group)
    whole = Row(row, mine, _chunks(row, mine), gathered)
    position = _taken(inputs.position, mine, 0)
    local = Visibility(row.piece[:, mine], seen.ancestors, seen.is_causal, position=position, whole=whole)
    return Inputs(_taken(inputs.tokens, mine, 0), position, local)


def _taken(values: Tensor, columns: Int[Tensor, " t"], filling: Any) -> Tensor:
    missing = int(columns.max()) + 1 - values.shape[1]
    return (pad(values, (0, missing), value=filling) if missing > 0 else values)[:, columns]


def _chunks(row: Visibility, mine: Int[Tensor, " t"]) -> tuple[Chunk, ...]:
    """The two chunks of a rank, each with the keys that any of its queries may see: those of their trees of pieces."""
    root, size, length = row.root(), len(mine) // 2, row.piece.shape[1]
    place, column = root + 1, torch.arange(length).expand_as(root)
    number = int(place.max()) + 1
    first = torch.full((len(root), number), length).scatter_reduce_(1, place, column, "amin")
    last = torch.zeros(len(root), number, dtype=torch.int64).scatter_reduce_(1, place, column, "amax")
    looks_ahead = not row.is_causal or row.is_open is not None
    found: list[Chunk] = []
    for start in (0, size):
        asked = place[:, mine[start : start + size]]
        stop = int(last.gather(1, asked).max()) if looks_ahead else int(mine[start + size - 1])
        found.append(Chunk(slice(start, start + size), slice(int(first.gather(1, asked).min()), stop + 1)))
    return tuple(found)


class _Gathered(torch.autograd.Function):
    """The positions of all ranks of a group in their order; the way back sums what each rank has for mine."""

    @staticmethod
    def forward(
        ctx: Any, order: Tensor, share: Share, group: dist.ProcessGroup, mine: Float[Tensor, "B G t K"]
    ) -> Float[Tensor, "B G T K"]:
        ctx.order, ctx.share, ctx.group = order, share, group
        flat = mine.movedim(2, 0).contiguous()
        every = flat.new_empty(share.size * len(flat), *flat.shape[1:])
        dist.all_gather_single(every, flat, group=group)
        return every[order.to(every.device)].movedim(0, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, Tensor]:  # pyright: ignore
        dtype = torch.promote_types(gradients[0].dtype, torch.float32)  # to be summed
        flat = gradients[0].movedim(2, 0).to(dtype)
        every = torch.empty(flat.shape, dtype=dtype, device=flat.device)
        every[ctx.order.to(flat.device)] = flat
        mine = every.new_empty(len(flat) // ctx.share.size, *flat.shape[1:])
        dist.reduce_scatter_single(mine, every, group=ctx.group)
        return None, None, None, mine.movedim(0, 2).to(gradients[0].dtype)
