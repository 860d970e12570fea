"""Kernels of attention, and which of them knows a Visibility: made once a batch, used by every layer."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from thetahat.core.visibility import Visibility
from thetahat.model.attention.blockwise import attend_blockwise, suits_blocks
from thetahat.model.attention.flex import attend_in_blocks, obstacle

FEW = 32  # positions a call: with fewer, calls cost more than a mask that is mostly false

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q [B H T K], k [B G S K], v [B G S K] -> [B H T K]


def compile_visibility(
    visibility: Visibility, head_width: int, dtype: torch.dtype, seen: Int[Tensor, "B S"] | None = None
) -> Attend:
    """Attention under this relation by the fastest kernel that knows it; made once a batch.

    Plain rows need no mask where `scaled_dot_product_attention` knows the relation itself: causal, or everything. Other
    rows are read piece by piece or tree by tree on a CPU, where these are long or alike, and in blocks on a GPU
    (`flex.py`), for products in `dtype` over heads of `head_width`; the rest under the mask. `seen` are the pieces
    of positions read before, whose keys a cache puts in front: each position sees those of its own piece.
    """
    if seen is not None:
        return attend_under(torch.cat([visibility.piece[:, :, None] == seen[:, None], visibility.mask()], dim=-1))
    if visibility.is_plain and visibility.is_causal and visibility.is_open is None:
        return attend_causally
    if visibility.is_plain and not visibility.is_causal:
        is_full = visibility.lengths is not None and len(visibility.lengths) == len(visibility.piece)
        return attend_under(None if is_full else visibility.mask())
    if (runs := _runs_apart(visibility)) is not None:
        return attend_apart(runs, is_causal=visibility.is_causal)
    if obstacle(visibility.piece.device, dtype, head_width, visibility.piece.shape[1]) is None:
        return attend_in_blocks(visibility)
    return attend_under(visibility.mask())


class Run(NamedTuple):
    """Neighbours of one length, each of which sees itself alone: pieces, or a tree of them."""

    number: int
    length: int
    mask: Bool[Tensor, "1 n n"] | None = None  # who sees whom within a tree or behind a prefix; None: a single piece


def _runs_apart(visibility: Visibility) -> list[Run] | None:
    """What stands apart in packed rows on a CPU, if it is long, or mostly of one length.

    Other devices have kernels that read blocks of any piece, and a graph that is compiled must not depend on lengths.
    """
    if visibility.lengths is None or visibility.piece.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    runs = runs_of(visibility, visibility.lengths)
    return runs if visibility.piece.numel() >= FEW * len(runs) else None


def runs_of(visibility: Visibility, lengths: tuple[int, ...]) -> list[Run]:
    """Row after row, pieces and trees of pieces, and the padding at a row's end."""
    if visibility.ancestors is None and visibility.is_open is None:
        return [Run(len(list(alike)), length) for length, alike in groupby(lengths)]
    open_or_not = [None] * len(lengths) if visibility.is_open is None else visibility.is_open.flatten().split(lengths)
    parts = zip(visibility.piece.flatten().split(lengths), open_or_not, strict=True)
    return [Run(1, len(part), _mask_within(visibility, part, opened)) for part, opened in parts]


def _mask_within(
    visibility: Visibility, piece: Int[Tensor, " n"], is_open: Bool[Tensor, " n"] | None
) -> Bool[Tensor, "1 n n"] | None:
    """Of one piece or tree; None for a piece of which nothing is open, whose relation the kernels know."""
    if bool((piece == piece[0]).all()) and (is_open is None or not bool(is_open.any())):
        return None
    return replace(visibility, piece=piece[None], is_open=None if is_open is None else is_open[None]).mask()


def attend_under(mask: Bool[Tensor, "B T S"] | None) -> Attend:
    """Attention where `mask` is true; without one everywhere."""
    return partial(_attend, mask=None if mask is None else mask[:, None], is_causal=False)


def attend_causally(
    q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
) -> Float[Tensor, "B H T K"]:
    """Attention to what came before: a block of queries at a time where that is quicker."""
    return attend_blockwise(q, k, v) if suits_blocks(q) else _attend(q, k, v, mask=None, is_causal=True)


def _attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S K"],
    *,
    mask: Bool[Tensor, "B 1 #T S"] | None,
    is_causal: bool,
) -> Float[Tensor, "B H T K"]:
    is_grouped = q.shape[1] != k.shape[1]
    if is_grouped and not knows_groups(q.device, q.dtype, has_mask=mask is not None):
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        is_grouped = False
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=is_grouped)


def knows_groups(device: torch.device, dtype: torch.dtype, *, has_mask: bool) -> bool:
    """Whether a fused kernel takes fewer keys than queries; on a GPU one alone does, in half precision without a mask.

    Asked for anything else there, `enable_gqa` silently takes the unfused kernel, which holds all T x S scores.
    """
    return device.type != "cuda" or (dtype.itemsize == 2 and not has_mask)


def kernels_of_any_shape(device: torch.device) -> AbstractContextManager[Any]:
    """Attention on a GPU without cuDNN's, which makes a plan for each new shape: worth its time only in training."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def attend_apart(runs: list[Run], *, is_causal: bool) -> Attend:
    """Attention within each piece or tree, a call for each run: Σ n² products, where a mask over the row has T²."""
    sizes = [run.number * run.length for run in runs]
    attends = [attend_causally if is_causal and run.mask is None else attend_under(run.mask) for run in runs]

    def attend(
        q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
    ) -> Float[Tensor, "B H T K"]:
        flat = (x.transpose(1, 2).flatten(0, 1).split(sizes) for x in (q, k, v))  # N H K
        found = (
            attend_run(*(part.unflatten(0, run[:2]).transpose(1, 2) for part in parts)).transpose(1, 2)
            for run, attend_run, *parts in zip(runs, attends, *flat, strict=True)
        )
        joined = torch.cat([one.flatten(0, 1) for one in found])
        return joined.unflatten(0, (q.shape[0], q.shape[2])).transpose(1, 2)

    return attend
