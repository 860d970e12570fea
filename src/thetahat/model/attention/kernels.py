"""Kernels of attention: functions of queries, keys and values that know who sees whom."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

from thetahat.model.attention.blockwise import attend_blockwise, suits_blocks

Bias = Callable[[Tensor], Tensor]  # [B T S], positions of keys - positions of queries -> [B H T S], added to scores


@runtime_checkable
class Attend(Protocol):
    r"""$\sum_j e^{s_j} v_j \,/\, (\sum_j e^{s_j} + e^{z})$ over the keys that a query sees, $s_j$ their scores.

    z is the head's sink, the logit of a key whose value is 0, learned in gpt-oss (OpenAI, 2025, arXiv 2508.10925); on
    what is otherwise read in its place, Xiao et al., 2023 (arXiv 2309.17453). Without sinks its term is absent.
    """

    def __call__(
        self,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G S K"],
        v: Float[Tensor, "B G S K"],
        sinks: Float[Tensor, " H"] | None = None,
        /,
    ) -> Float[Tensor, "B H T K"]:
        """What each query reads."""
        ...


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
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G T K"],
    v: Float[Tensor, "B G T K"],
    sinks: Float[Tensor, " H"] | None = None,
) -> Float[Tensor, "B H T K"]:
    """Attention to what came before: a block of queries at a time where that is quicker."""
    if sinks is None and suits_blocks(q):
        return attend_blockwise(q, k, v)
    return _attend(q, k, v, sinks, mask=None, is_causal=True)


def _attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S K"],
    sinks: Float[Tensor, " H"] | None = None,
    *,
    mask: Bool[Tensor, "B 1 #T S"] | Float[Tensor, "B H T S"] | None,
    is_causal: bool,
) -> Float[Tensor, "B H T K"]:
    width, length = q.shape[3], q.shape[2]
    if sinks is not None:
        q, k, v, mask = _with_sinks(q, k, v, sinks, mask)
        q = pad(q, (0, 0, 1, 0)) if is_causal else q  # a query for each key, of which the first sees the sink alone
    is_grouped = q.shape[1] != k.shape[1]
    if is_grouped and not knows_groups(q.device, q.dtype, has_mask=mask is not None):
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        is_grouped = False
    found = scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=is_causal,
        enable_gqa=is_grouped,
        scale=None if sinks is None else width**-0.5,
    )
    return found if sinks is None else found[:, :, -length:, :width]


def _with_sinks(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S K"],
    sinks: Float[Tensor, " H"],
    mask: Bool[Tensor, "B 1 #T S"] | Float[Tensor, "B H T S"] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The sinks as one more key in front, whose value is 0.

    It has a coordinate of its own, in which each query has its head's sink and all other keys have 0. So any kernel
    knows sinks, with their gradient, and no scores are written out. A GPU's kernels ask for widths that 8 divides.
    """
    width = q.shape[-1]
    added = 1 if q.device.type == "cpu" else 8 - width % 8
    logit = (sinks.to(q.dtype) * width**0.5)[None, :, None, None].expand(*q.shape[:3], 1)
    k, v = pad(k, (0, added, 1, 0)), pad(v, (0, added, 1, 0))
    k[:, :, 0, width] = 1
    if mask is not None:
        mask = pad(mask, (1, 0), value=1.0 if mask.dtype == torch.bool else 0.0)
    return pad(torch.cat([q, logit], -1), (0, added - 1)), k, v, mask


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
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G S K"],
        v: Float[Tensor, "B G S K"],
        sinks: Float[Tensor, " H"] | None = None,
    ) -> Float[Tensor, "B H T K"]:
        if q.shape[1] != k.shape[1]:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        if cap is None and bias is not None:
            return _attend(q, k, v, sinks, mask=bias.to(q.dtype), is_causal=False)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        scores = scores if bias is None else scores + bias
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        scores = scores if hidden is None else scores.masked_fill(hidden, -torch.inf)
        if sinks is None:
            return scores.softmax(-1).to(v.dtype) @ v
        logit = sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
        return torch.cat([logit, scores], -1).softmax(-1)[..., 1:].to(v.dtype) @ v

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
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G T K"],
        v: Float[Tensor, "B G T K"],
        sinks: Float[Tensor, " H"] | None = None,
    ) -> Float[Tensor, "B H T K"]:
        flat = (x.transpose(1, 2).flatten(0, 1).split(sizes) for x in (q, k, v))  # N H K
        found = (
            run.attend(*(part.unflatten(0, run[:2]).transpose(1, 2) for part in parts), sinks).transpose(1, 2)
            for run, *parts in zip(runs, *flat, strict=True)
        )
        joined = torch.cat([one.flatten(0, 1) for one in found])
        return joined.unflatten(0, (q.shape[0], q.shape[2])).transpose(1, 2)

    return attend
