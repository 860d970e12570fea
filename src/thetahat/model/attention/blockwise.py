"""Causal attention on a CPU, a block of queries at a time."""

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 96  # queries: the scores of a block stay in the cache, and few are made that nobody may see


def suits_blocks(q: Float[Tensor, "B H T K"]) -> bool:
    """Whether this is quicker: on a CPU, in at least float32, in rows of more than one block; it has no gradient."""
    is_long = q.device.type == "cpu" and q.dtype.itemsize >= 4 and q.shape[2] > BLOCK
    return is_long and not torch.is_grad_enabled()


def block_size(length: int) -> int:
    """Of blocks that are about equally long, so that none is made for a few queries only."""
    number = -(-length // BLOCK)
    return -(-length // number // 8) * 8


def attend_blockwise(
    q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
) -> Float[Tensor, "B H T K"]:
    r"""$\mathrm{softmax}\left(q k^\top / \sqrt{K}\right) v$, each query seeing the keys up to its own.

    The H / G heads that share keys are read as one longer list of queries. Two products a block: quicker than the fused
    kernel, whose blocks are smaller, where a row has more than one, and without a way back, so not for training.
    """
    shape, num_groups = q.shape, k.shape[1]
    q_NRTK = q.unflatten(1, (num_groups, -1)).flatten(0, 1)
    k_NKT, v_NTK = k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1)
    size, anything = block_size(shape[2]), q.new_empty(1, 1, 1)
    later = q.new_full((size, size), -torch.inf).triu_(1)
    found = q.new_empty(q_NRTK.shape)
    last = 0
    for queries, place in zip(q_NRTK.split(size, 2), found.split(size, 2), strict=True):
        first, last = last, last + queries.shape[2]
        scores = torch.baddbmm(anything, queries.flatten(1, 2), k_NKT[:, :, :last], beta=0, alpha=shape[3] ** -0.5)
        scores.unflatten(1, queries.shape[1:3])[..., first:].add_(later[: last - first, : last - first])
        place.copy_(torch.bmm(scores.softmax(-1), v_NTK[:, :last]).view_as(place))
    return found.view(shape)
