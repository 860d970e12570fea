"""Attention with grouped queries; who sees whom, and from where to where, is handed in."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thetahat.model.attention.cache import LayerCache
from thetahat.model.attention.kernels import Attend
from thetahat.model.config import TransformerConfig
from thetahat.model.law import BIAS, MATRIX, VALUES, WRITER, WRITER_BIAS, Law
from thetahat.model.layers.norm import norm_of
from thetahat.model.layers.rope import Rotation, rotate


class Way(NamedTuple):
    """How the attentions of one kind of layer read a batch: made once for all of them."""

    rotation: Rotation | None  # None: queries and keys are read as they are
    attend: Attend


class Memory(NamedTuple):
    """Keys and values, of the positions themselves or of a source, which has them once however often it is read."""

    keys: Float[Tensor, "B G S K"]
    values: Float[Tensor, "B G S K"]

    def select(self, rows: Int[Tensor, " B"]) -> "Memory":
        """These rows, in this order."""
        return Memory(self.keys[rows], self.values[rows])


@final
class Attention(nn.Module):
    r"""$\mathrm{softmax}\left(s\,q k^\top\right) v$ for each head, joined and projected; $s = 1/\sqrt{K}$ unless given.

    $q$ is of the positions that read, $k$ and $v$ are of the same positions, or, in cross-attention, of a memory. Where
    the model has QK-norm, queries and keys are normalised before the rotation, over each head (Qwen3, arXiv 2505.09388)
    or over all heads together (OLMo 2, arXiv 2501.00656). A head may have a sink (`Attend`), which begins at 0.
    """

    laws: ClassVar[Mapping[str, Law]] = {
        "query.weight": MATRIX,
        "key.weight": MATRIX,
        "value.weight": VALUES,
        "output.weight": WRITER,
        "sinks": BIAS,
        **{f"{name}.bias": BIAS for name in ("query", "key", "value")},
        "output.bias": WRITER_BIAS,
    }

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        choices, inside = config.attention, config.num_kv_heads * config.head_width
        outside = config.num_heads * config.head_width
        self.head_width = config.head_width
        self.query = nn.Linear(config.width, outside, bias=choices.has_bias)
        self.key = nn.Linear(config.width, inside, bias=choices.has_bias)
        self.value = nn.Linear(config.width, inside, bias=choices.has_bias)
        self.output = nn.Linear(outside, config.width, bias=choices.has_output_bias)
        self.query_norm = self.key_norm = None
        self.norms_joined = choices.query_key_norm == "joined"
        if choices.query_key_norm != "none":
            self.query_norm = norm_of(config, outside if self.norms_joined else config.head_width)
            self.key_norm = norm_of(config, inside if self.norms_joined else config.head_width)
        self.sinks = nn.Parameter(torch.zeros(config.num_heads)) if choices.sinks == "learned" else None
        self.has_sinks = choices.sinks != "none"
        # kernels multiply scores by 1 / sqrt(K)
        self.stretch = 1.0 if choices.scale is None else choices.scale * math.sqrt(config.head_width)

    def forward(
        self, x: Float[Tensor, "B T D"], way: Way, cache: LayerCache | None = None, memory: Memory | None = None
    ) -> Float[Tensor, "B T D"]:
        q_BTHK = rotate(self._heads(self.query(x), self.query_norm), way.rotation)
        if self.stretch != 1.0:
            q_BTHK = q_BTHK * self.stretch
        k, v = memory or self.remember(x, way.rotation)
        if cache is not None:
            k, v = cache.append(k, v)
        q_BHTK = q_BTHK.transpose(1, 2)
        sinks = q_BHTK.new_zeros(q_BHTK.shape[1]) if self.has_sinks and self.sinks is None else self.sinks
        return self.output(way.attend(q_BHTK, k, v, sinks).transpose(1, 2).flatten(2))

    def remember(self, states: Float[Tensor, "B S D"], rotation: Rotation | None = None) -> Memory:
        """What is read of states: their keys and values."""
        k_BSGK = rotate(self._heads(self.key(states), self.key_norm), rotation)
        v_BSGK = self.value(states).unflatten(-1, (-1, self.head_width))
        return Memory(k_BSGK.transpose(1, 2), v_BSGK.transpose(1, 2))

    def _heads(self, projected: Float[Tensor, "B T *axes"], norm: nn.Module | None) -> Float[Tensor, "B T H K"]:
        heads = (-1, self.head_width)
        if norm is None:
            return projected.unflatten(-1, heads)
        return norm(projected).unflatten(-1, heads) if self.norms_joined else norm(projected.unflatten(-1, heads))

    if TYPE_CHECKING:
        __call__ = forward
