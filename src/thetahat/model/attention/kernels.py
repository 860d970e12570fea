"""Kernels of attention: functions of queries, keys and values that know who sees whom."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from thetahat.model.attention.blockwise import attend_blockwise, suits_blocks

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q [B H T K], k [B G S K], v [B G S K] -> [B H T K]
Bias = Callable[[Tensor], Tensor]  # [B T S], positions of keys - positions of queries -> [B H T S], added to scores


class Past(NamedTuple):
    """Positions that were read before, whose keys and values a cache puts in front."""

    position: Int[Tensor, "B S"]
    piece: Int[Tensor, "B S"] | None = None  # each position sees those of its own piece; None: all


class Scores(NamedTuple):
    """What is done to the scores before the softmax; for most models nothing."""

    bias: Bias | None = None
    cap: float | None = None  # c of c tanh(score / c)


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


def attend_scored(
    mask: Bool[Tensor, "B T S"] | None, bias: Float[Tensor, "B H T S"] | None = None, cap: float | None = None
) -> Attend:
    r"""$\mathrm{softmax}(c \tanh((q k^\top / \sqrt{K} + b) / c))\,v$ where `mask` is true; no cap, no tanh.

    b may have a gradient (T5, arXiv 1910.10683), and then all scores are held, as they are for a cap (Gemma 2, arXiv
    2408.00118), for which no fused kernel is used.
    """
    hidden = None if mask is None else ~mask[:, None]
    if cap is None and bias is not None and hidden is not None:
        bias = bias.masked_fill(hidden, -torch.inf)

    def attend(
        q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"], v: Float[Tensor, "B G S K"]
    ) -> Float[Tensor, "B H T K"]:
        if q.shape[1] != k.shape[1]:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        if cap is None and bias is not None:
            return scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        scores = scores if bias is None else scores + bias
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        scores = scores if hidden is None else scores.masked_fill(hidden, -torch.inf)
        return scores.softmax(-1).to(v.dtype) @ v

    return attend


class Run(NamedTuple):
    """Neighbours of one length, each of which sees itself alone: pieces, or a tree of them."""

    number: int
    length: int
    attend: Attend


def attend_apart(runs: list[Run]) -> Attend:
    """Attention within each piece or tree, a call for each run: Σ n² products, where a mask over the row has T²."""
    sizes = [run.number * run.length for run in runs]

    def attend(
        q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
    ) -> Float[Tensor, "B H T K"]:
        flat = (x.transpose(1, 2).flatten(0, 1).split(sizes) for x in (q, k, v))  # N H K
        found = (
            run.attend(*(part.unflatten(0, run[:2]).transpose(1, 2) for part in parts)).transpose(1, 2)
            for run, *parts in zip(runs, *flat, strict=True)
        )
        joined = torch.cat([one.flatten(0, 1) for one in found])
        return joined.unflatten(0, (q.shape[0], q.shape[2])).transpose(1, 2)

    return attend
