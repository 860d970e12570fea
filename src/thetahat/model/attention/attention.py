"""Attention with grouped queries, QK-norm and rotary positions; who sees whom is handed in."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from thetahat.core.visibility import Visibility
from thetahat.model.attention.blockwise import attend_blockwise, suits_blocks
from thetahat.model.attention.cache import LayerCache
from thetahat.model.attention.flex import attend_in_blocks, obstacle
from thetahat.model.config import TransformerConfig
from thetahat.model.norm import RMSNorm
from thetahat.model.rope import Rotation, rotate

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
        return attend_under(None, is_causal=True)
    if visibility.is_plain and not visibility.is_causal:
        return attend_under(None if _is_full(visibility.piece) else visibility.mask())
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

    On another device nobody waits for the answer, and a graph that is compiled must not depend on it.
    """
    if visibility.piece.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    runs = runs_of(visibility)
    return runs if runs is not None and visibility.piece.numel() >= FEW * len(runs) else None


def runs_of(visibility: Visibility) -> list[Run] | None:
    """Row after row, pieces and trees of pieces (and the padding at a row's end); None where one is scattered."""
    piece, ancestors, is_open = visibility.piece, visibility.ancestors, visibility.is_open
    root = piece if ancestors is None else torch.where(piece < 0, -1, ancestors.int().argmax(1)[piece.clamp(min=0)])
    begins = torch.ones_like(root, dtype=torch.bool)
    begins[:, 1:] = root[:, 1:] != root[:, :-1]
    starts = begins.flatten().nonzero()[:, 0]
    named = torch.stack([starts // root.shape[1], root.flatten()[starts]], dim=1)
    if len(named.unique(dim=0)) < len(named):
        return None
    lengths = torch.diff(starts, append=torch.tensor([root.numel()]))
    if ancestors is None and is_open is None:
        length, number = torch.unique_consecutive(lengths, return_counts=True)
        return [Run(*run) for run in zip(number.tolist(), length.tolist(), strict=True)]
    open_or_not = [None] * len(lengths) if is_open is None else is_open.flatten().split(lengths.tolist())
    parts = zip(piece.flatten().split(lengths.tolist()), open_or_not, strict=True)
    return [Run(1, len(part), _mask_within(visibility, part, opened)) for part, opened in parts]


def _mask_within(
    visibility: Visibility, piece: Int[Tensor, " n"], is_open: Bool[Tensor, " n"] | None
) -> Bool[Tensor, "1 n n"] | None:
    """Of one piece or tree; None for a piece of which nothing is open, whose relation the kernels know."""
    if bool((piece == piece[0]).all()) and (is_open is None or not bool(is_open.any())):
        return None
    return replace(visibility, piece=piece[None], is_open=None if is_open is None else is_open[None]).mask()


def _is_full(piece: Int[Tensor, "B T"]) -> bool:
    """Whether nothing is padding. On another device nobody waits for the answer: there the mask stays."""
    return piece.device.type == "cpu" and bool((piece >= 0).all())


def attend_under(mask: Bool[Tensor, "B T S"] | None, *, is_causal: bool = False) -> Attend:
    """Attention where `mask` is true; without one everywhere, or to what came before."""
    mask_B1TS = None if mask is None else mask[:, None]
    may_take_blocks = is_causal and mask is None and not torch.is_grad_enabled()

    def attend(
        q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"], v: Float[Tensor, "B G S K"]
    ) -> Float[Tensor, "B H T K"]:
        if may_take_blocks and suits_blocks(q):
            return attend_blockwise(q, k, v)
        is_grouped = q.shape[1] != k.shape[1]
        if is_grouped and not knows_groups(q.device, q.dtype, has_mask=mask is not None):
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
            is_grouped = False
        return scaled_dot_product_attention(q, k, v, attn_mask=mask_B1TS, is_causal=is_causal, enable_gqa=is_grouped)

    return attend


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
    attends = [attend_under(run.mask, is_causal=is_causal and run.mask is None) for run in runs]

    def attend(
        q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
    ) -> Float[Tensor, "B H T K"]:
        flat = (x.transpose(1, 2).flatten(0, 1).split(sizes) for x in (q, k, v))  # N H K
        found = (
            attend_run(*(part.unflatten(0, run[:2]).transpose(1, 2) for part in parts)).transpose(1, 2)
            for run, attend_run, *parts in zip(runs, attends, *flat, strict=True)
        )
        if torch.is_grad_enabled():
            joined = torch.cat([one.flatten(0, 1) for one in found])
        else:  # each into its place at once, so that none of them stays in the way of the next
            joined = v.new_empty(sum(sizes), q.shape[1], q.shape[3])
            for place, one in zip(joined.split(sizes), found, strict=True):
                place.view_as(one).copy_(one)
        return joined.unflatten(0, (q.shape[0], q.shape[2])).transpose(1, 2)

    return attend


@final
class Attention(nn.Module):
    r"""$\mathrm{softmax}\left(q k^\top / \sqrt{K}\right) v$ for each head, joined and projected.

    Queries and keys are normalised over the head width before the rotation (Qwen3, arXiv 2505.09388).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.query = nn.Linear(config.width, config.num_heads * config.head_width, bias=False)
        self.key = nn.Linear(config.width, config.num_kv_heads * config.head_width, bias=False)
        self.value = nn.Linear(config.width, config.num_kv_heads * config.head_width, bias=False)
        self.output = nn.Linear(config.num_heads * config.head_width, config.width, bias=False)
        self.query_norm = RMSNorm(config.head_width, config.norm_epsilon)
        self.key_norm = RMSNorm(config.head_width, config.norm_epsilon)

    def forward(
        self, x: Float[Tensor, "B T D"], turn: Rotation, attend: Attend, cache: LayerCache | None = None
    ) -> Float[Tensor, "B T D"]:
        heads = (-1, self.head_width)
        q_BTHK = rotate(self.query_norm(self.query(x).unflatten(-1, heads)), turn)
        k_BTGK = rotate(self.key_norm(self.key(x).unflatten(-1, heads)), turn)
        v_BTGK = self.value(x).unflatten(-1, heads)
        q, k, v = (projected.transpose(1, 2) for projected in (q_BTHK, k_BTGK, v_BTGK))
        if cache is not None:
            k, v = cache.append(k, v)
        return self.output(attend(q, k, v).transpose(1, 2).flatten(2))

    if TYPE_CHECKING:
        __call__ = forward
