"""Attention with grouped queries, QK-norm and rotary positions; who sees whom is handed in."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from thetahat.core.visibility import Visibility
from thetahat.model.cache import LayerCache
from thetahat.model.config import TransformerConfig
from thetahat.model.flex import attend_in_blocks, obstacle
from thetahat.model.norm import RMSNorm
from thetahat.model.rope import Rotation, rotate

FEW = 32  # positions a call: with fewer, calls cost more than a mask that is mostly false

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q [B H T K], k [B G S K], v [B G S K] -> [B H T K]


def compile_visibility(
    visibility: Visibility, head_width: int, dtype: torch.dtype, seen: Int[Tensor, "B S"] | None = None
) -> Attend:
    """Attention under this relation by the fastest kernel that knows it; made once a batch.

    Plain rows need no mask where `scaled_dot_product_attention` knows the relation itself: causal, or everything. Other
    rows are read piece by piece on a CPU, where pieces are long or alike, and in blocks on a GPU (model/flex.py), for
    products in `dtype` over heads of `head_width`; the rest under the mask. `seen` are the pieces of positions read
    before, whose keys a cache puts in front: each position sees those of its own piece.
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
    """Neighbouring pieces of one length."""

    number: int
    length: int


def _runs_apart(visibility: Visibility) -> list[Run] | None:
    """The pieces of packed rows on a CPU, if none sees another and those of one length are mostly neighbours.

    On another device nobody waits for the answer, and a graph that is compiled must not depend on it.
    """
    is_simple = visibility.ancestors is None and visibility.is_open is None
    if not is_simple or visibility.piece.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    runs = runs_of(visibility.piece)
    return runs if visibility.piece.numel() >= FEW * len(runs) else None


def runs_of(piece: Int[Tensor, "B T"]) -> list[Run]:
    """Row after row, pieces (and the padding at a row's end) of one length that are neighbours."""
    begins = torch.ones_like(piece, dtype=torch.bool)
    begins[:, 1:] = piece[:, 1:] != piece[:, :-1]
    lengths = torch.diff(begins.flatten().nonzero()[:, 0], append=torch.tensor([begins.numel()]))
    length, number = torch.unique_consecutive(lengths, return_counts=True)
    return [Run(*run) for run in zip(number.tolist(), length.tolist(), strict=True)]


def _is_full(piece: Int[Tensor, "B T"]) -> bool:
    """Whether nothing is padding. On another device nobody waits for the answer: there the mask stays."""
    return piece.device.type == "cpu" and bool((piece >= 0).all())


def attend_under(mask: Bool[Tensor, "B T S"] | None, *, is_causal: bool = False) -> Attend:
    """Attention where `mask` is true; without one everywhere, or to what came before."""
    mask_B1TS = None if mask is None else mask[:, None]

    def attend(
        q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"], v: Float[Tensor, "B G S K"]
    ) -> Float[Tensor, "B H T K"]:
        is_grouped = q.shape[1] != k.shape[1]
        return scaled_dot_product_attention(q, k, v, attn_mask=mask_B1TS, is_causal=is_causal, enable_gqa=is_grouped)

    return attend


def attend_apart(runs: list[Run], *, is_causal: bool) -> Attend:
    """Attention within each piece, a call for each run of them: Σ n² products, where a mask over the row has T²."""
    sizes = [run.number * run.length for run in runs]
    attend_run = attend_under(None, is_causal=is_causal)

    def attend(
        q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
    ) -> Float[Tensor, "B H T K"]:
        flat = (x.transpose(1, 2).flatten(0, 1).split(sizes) for x in (q, k, v))  # N H K
        found: list[Tensor] = []
        for run, *parts in zip(runs, *flat, strict=True):
            each = (part.unflatten(0, run).transpose(1, 2) for part in parts)
            found.append(attend_run(*each).transpose(1, 2).flatten(0, 1))
        return torch.cat(found).unflatten(0, (q.shape[0], q.shape[2])).transpose(1, 2)

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
