"""Attention with grouped queries; who sees whom, and from where to where, is handed in."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thetahat.model.attention.cache import LayerCache
from thetahat.model.attention.kernels import Attend
from thetahat.model.config import TransformerConfig
from thetahat.model.law import BIAS, MATRIX, TABLE, VALUES, WRITER, WRITER_BIAS, Constant, Law
from thetahat.model.layers.norm import norm_of
from thetahat.model.layers.rope import Rotation, rotate
from thetahat.model.layers.table import table


class Memory(NamedTuple):
    """Keys and values, of the positions themselves or of a source, which has them once however often it is read."""

    keys: Float[Tensor, "B G S K"]
    values: Float[Tensor, "B G S K"]

    def select(self, rows: Int[Tensor, " B"]) -> "Memory":
        """These rows, in this order."""
        return Memory(self.keys[rows], self.values[rows])


@dataclass
class Shared:
    """Keys and values of several layers, from when the first of them has read a batch."""

    memory: Memory | None = None


class Way(NamedTuple):
    """How the attentions of one kind of layer read a batch: made once for all of them."""

    rotation: Rotation | None  # None: queries and keys are read as they are
    attend: Attend
    tokens: Int[Tensor, "B T"] | None = None  # for the tables of value embeddings
    shared: Shared | None = None  # of the layers of a group; None: each has its own keys and values


@final
class Attention(nn.Module):
    r"""$\mathrm{softmax}\left(s\,q k^\top\right) v$ for each head, joined and projected; $s = 1/\sqrt{K}$ unless given.

    $q$ is of the positions that read, $k$ and $v$ are of the same positions, or, in cross-attention, of a memory. Where
    the model has QK-norm, queries and keys are normalised before the rotation, over each head (Qwen3, arXiv 2505.09388)
    or over all heads together (OLMo 2, arXiv 2501.00656). A head may have a sink (`Attend`), which begins at 0.

    With `num_tokens` it has a table e of tokens, and the values of group g of heads are
    $v_g + 2\sigma(w_g x_{:n})\, e_g(\mathrm{token})$: value embeddings, whose gates read the first n numbers of x and
    begin at 1 (modded-nanogpt, 2024; nanochat, 2025; cf. Zhou et al., Value Residual Learning, 2024, arXiv 2410.17897).

    With `is_reader` it has no keys and values, but reads those of an attention before it (Brandon et al., Reducing
    Transformer Key-Value Cache Size with Cross-Layer Attention, 2024, arXiv 2405.12981).
    """

    laws: ClassVar[Mapping[str, Law]] = {
        "query.weight": MATRIX,
        "key.weight": MATRIX,
        "value.weight": VALUES,
        "output.weight": WRITER,
        "sinks": BIAS,
        "value_embedding.weight": TABLE,
        "value_gate.weight": Law("matrices", Constant(0.0)),
        **{f"{name}.bias": BIAS for name in ("query", "key", "value")},
        "output.bias": WRITER_BIAS,
    }

    def __init__(self, config: TransformerConfig, num_tokens: int = 0, *, is_reader: bool = False) -> None:
        super().__init__()
        choices, inside = config.attention, config.num_kv_heads * config.head_width
        outside = config.num_heads * config.head_width
        self.head_width = config.head_width
        self.query = nn.Linear(config.width, outside, bias=choices.has_bias)
        self.key = None if is_reader else nn.Linear(config.width, inside, bias=choices.has_bias)
        self.value = None if is_reader else nn.Linear(config.width, inside, bias=choices.has_bias)
        self.output = nn.Linear(outside, config.width, bias=choices.has_output_bias)
        self.query_norm = self.key_norm = None
        self.norms_joined = choices.query_key_norm == "joined"
        if choices.query_key_norm != "none":
            self.query_norm = norm_of(config, outside if self.norms_joined else config.head_width)
        if choices.query_key_norm != "none" and not is_reader:
            self.key_norm = norm_of(config, inside if self.norms_joined else config.head_width)
        self.value_embedding = self.value_gate = None
        if num_tokens and config.value_embeddings is not None:
            self.value_embedding = table(num_tokens, inside)
            gate_width = min(config.value_embeddings.gate_width, config.width)
            self.value_gate = nn.Linear(gate_width, config.num_kv_heads, bias=False)
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
        k, v = memory or self._of_positions(x, way, cache)
        q_BHTK = q_BTHK.transpose(1, 2)
        sinks = q_BHTK.new_zeros(q_BHTK.shape[1]) if self.has_sinks and self.sinks is None else self.sinks
        return self.output(way.attend(q_BHTK, k, v, sinks).transpose(1, 2).flatten(2))

    def _of_positions(self, x: Float[Tensor, "B T D"], way: Way, cache: LayerCache | None) -> Memory:
        """Keys and values of the positions themselves, behind those that a cache has kept."""
        if self.key is None:
            assert way.shared is not None
            assert way.shared.memory is not None
            return way.shared.memory
        memory = self.remember(x, way.rotation, way.tokens)
        if cache is not None:
            memory = Memory(*cache.append(*memory))
        if way.shared is not None and way.shared.memory is None:  # which it is not where a layer is computed again
            way.shared.memory = memory
        return memory

    def remember(
        self,
        states: Float[Tensor, "B S D"],
        rotation: Rotation | None = None,
        tokens: Int[Tensor, "B S"] | None = None,
    ) -> Memory:
        """What is read of states: their keys and values."""
        assert self.key is not None
        assert self.value is not None
        k_BSGK = rotate(self._heads(self.key(states), self.key_norm), rotation)
        v_BSGK = self.value(states).unflatten(-1, (-1, self.head_width))
        if self.value_embedding is not None and self.value_gate is not None and tokens is not None:
            gate_BSG = 2 * self.value_gate(states[..., : self.value_gate.in_features]).sigmoid()
            v_BSGK = v_BSGK + gate_BSG[..., None] * self.value_embedding(tokens).to(v_BSGK.dtype).view_as(v_BSGK)
        return Memory(k_BSGK.transpose(1, 2), v_BSGK.transpose(1, 2))

    def _heads(self, projected: Float[Tensor, "B T *axes"], norm: nn.Module | None) -> Float[Tensor, "B T H K"]:
        heads = (-1, self.head_width)
        if norm is None:
            return projected.unflatten(-1, heads)
        return norm(projected).unflatten(-1, heads) if self.norms_joined else norm(projected.unflatten(-1, heads))

    if TYPE_CHECKING:
        __call__ = forward
