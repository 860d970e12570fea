"""Causal attention on a CPU, a block of queries at a time."""

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 96  # queries: the scores of a block stay in the cache, and few are made that nobody may see


def suits_blocks(q: Float[Tensor, "B H T K"]) -> bool:
    """Whether this is quicker: on a CPU, in at least float32, in rows of more than one block."""
    return q.device.type == "cpu" and q.dtype.itemsize >= 4 and q.shape[2] > BLOCK


def attend_blockwise(
    q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
) -> Float[Tensor, "B H T K"]:
    r"""$\mathrm{softmax}\left(q k^\top / \sqrt{K}\right) v$, each query seeing the keys up to its own.

    The H / G heads that share keys are read as one longer list of queries. Two products a block: quicker than the fused
    kernel, whose blocks are smaller, where a row has more than one, and without a way back, so not for training.
    """
    shape, num_groups = q.shape, k.shape[1]
    q_NRTK = (q * shape[-1] ** -0.5).unflatten(1, (num_groups, -1)).flatten(0, 1)
    k_NKT, v_NTK = k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1)
    later = torch.full((BLOCK, BLOCK), -torch.inf, dtype=q.dtype).triu(1)
    found = q.new_empty(q_NRTK.shape)
    for first in range(0, shape[2], BLOCK):
        queries = q_NRTK[:, :, first : first + BLOCK]
        last, size = first + queries.shape[2], queries.shape[2]
        scores = torch.bmm(queries.flatten(1, 2), k_NKT[:, :, :last]).unflatten(1, (-1, size))
        scores[..., first:].add_(later[:size, :size])
        weights = scores.softmax(-1).flatten(1, 2)
        found[:, :, first:last] = torch.bmm(weights, v_NTK[:, :last]).unflatten(1, (-1, size))
    return found.view(shape)
