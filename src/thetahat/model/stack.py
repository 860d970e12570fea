"""Embeddings to hidden states: what a decoder, an encoder and both sides of an encoder-decoder have in common."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from thetahat.core.batch import Inputs
from thetahat.core.work.eager import is_compiled
from thetahat.model.attention.attention import Memory, Shared, Way
from thetahat.model.attention.cache import Cache, LayerCache
from thetahat.model.attention.choice import compile_visibility
from thetahat.model.attention.kernels import Attend, Bias, Scores, attend_scored, attend_under
from thetahat.model.block import Block, OfSource
from thetahat.model.config import (
    Alibi,
    AttendingMixer,
    AttentionMixer,
    LatentMixer,
    LearnedPositions,
    Mixer,
    Rotary,
    SinusoidalPositions,
    TransformerConfig,
)
from thetahat.model.law import BIAS, MATRIX, TABLE, Law
from thetahat.model.layers.norm import norm_of
from thetahat.model.layers.positions import Slopes, distance_bucket, sinusoids
from thetahat.model.layers.rope import Rotation, rotation_of
from thetahat.model.layers.table import table
from thetahat.model.precision import product_dtype
from thetahat.model.recurrence.chunks import Chunks, chunks_behind, chunks_of
from thetahat.model.recurrence.count import sizes_of
from thetahat.model.recurrence.smear import Smear
from thetahat.model.recurrence.state import LayerState


class Reading(NamedTuple):
    """A source as the decoder's layers read it."""

    memories: list[Memory]  # one a layer
    is_seen: Bool[Tensor, "B T S"]  # which of it each position of the target sees; T may be 1: all see the same

    def select(self, rows: Int[Tensor, " B"]) -> "Reading":
        """These rows, in this order."""
        return Reading([memory.select(rows) for memory in self.memories], self.is_seen[rows])


class Stack(nn.Module):
    """Positions, blocks and a last norm, with a table of tokens unless another stack's is read.

    With an `encoder` each block also reads that stack's states, which are handed in as a Reading.
    Layers that read alike share what is found once a batch: the rotation and the kernel of attention.
    The first `num_recomputed` layers keep their input alone, and are computed again in the backward pass (Chen et al.,
    Training Deep Nets with Sublinear Memory Cost, 2016, arXiv 1604.06174): same numbers, less memory, more time.
    """

    laws: ClassVar[Mapping[str, Law]] = {
        **{f"{name}.weight": TABLE for name in ("embedding", "position_embedding", "type_embedding")},
        "relative_embedding.weight": TABLE,
        "widen.weight": MATRIX,
        "widen.bias": BIAS,
    }

    def __init__(
        self,
        config: TransformerConfig,
        num_layers: int,
        vocab_size: int | None = None,
        *,
        is_causal: bool,
        encoder: "Stack | None" = None,
    ) -> None:
        super().__init__()
        choices, relative = config.embedding, config.attention.relative
        width = choices.width or config.width
        self.config, self.num_layers, self.is_causal = config, num_layers, is_causal
        self.num_recomputed = 0
        if vocab_size is not None:
            self.embedding = table(vocab_size, width)
        if encoder is not None:
            self.encoder = encoder
        learned = choices.positions if isinstance(choices.positions, LearnedPositions) else None
        self.position_embedding = table(learned.number + learned.offset, width) if learned else None
        self.type_embedding = table(choices.num_types, width) if choices.num_types else None
        self.relative_embedding = table(relative.num_buckets, config.num_heads) if relative else None
        has_slopes = any(isinstance(mixer.positions, Alibi) for mixer in config.attentions)
        self.slopes = Slopes(config.num_heads) if has_slopes else None
        self.embedding_norm = norm_of(config, width) if choices.has_norm else None
        self.widen = nn.Linear(width, config.width) if choices.width else None
        self.smear = Smear(config.width, choices.smear.gate_width) if choices.smear else None
        self.dropout = nn.Dropout(config.dropout)
        num_tokens = dict.fromkeys(config.value_layers, vocab_size or 0)
        self.blocks = nn.ModuleList(
            Block(config, reads_source=encoder is not None, layer=layer, num_tokens=num_tokens.get(layer, 0))
            for layer in range(1 if config.shares_layers else num_layers)
        )
        self.norm = nn.Identity() if config.placement == "post" else norm_of(config, config.width)

    def states(
        self,
        embedded: Float[Tensor, "B T E"],
        inputs: Inputs,
        reading: Reading | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The normalised residual stream after the last block, one state a position."""
        x = self.begin(embedded, inputs, cache)
        x = self.through(range(self.num_layers), x, inputs, reading, cache)
        if cache is not None:
            cache.add(inputs.position)
        return self.norm(x)

    def through(
        self,
        layers: range,
        x: Float[Tensor, "B T D"],
        inputs: Inputs,
        reading: Reading | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The residual stream behind these layers, of what it is before them."""
        ways = self._ways(inputs, x, cache)
        beside = None if reading is None else self._way_to_source(reading)
        shared = {layer: Shared() for layer in self.config.own_keys(self.num_layers)}
        for layer in layers:
            mixer = self.config.mixer(layer)
            way = ways[mixer]
            if isinstance(way, Way) and isinstance(mixer, AttentionMixer) and self.config.attention.sharing > 1:
                way = way._replace(shared=shared[self.config.keys_of(layer)])
            source = None if reading is None or beside is None else OfSource(reading.memories[layer], beside)
            layer_cache = None if cache is None else cache.layers[layer]
            x = self._block_output(layer, x, way, layer_cache, source)
        return x

    def _block_output(
        self,
        layer: int,
        x: Float[Tensor, "B T D"],
        way: Way | Chunks,
        cache: LayerCache | LayerState | None,
        source: OfSource | None,
    ) -> Float[Tensor, "B T D"]:
        block = self.block(layer)
        if layer >= self.num_recomputed or not torch.is_grad_enabled():
            return block(x, way, cache, source)
        draws = self.training and self.config.dropout > 0
        return cast(Tensor, checkpoint(block, x, way, cache, source, use_reentrant=False, preserve_rng_state=draws))  # pyright: ignore

    def block(self, layer: int) -> Block:
        """The block of a layer, counted from 0; where layers are shared it is always the same."""
        return cast(Block, self.blocks[layer % len(self.blocks)])

    def begin(self, x: Float[Tensor, "B T E"], inputs: Inputs, cache: Cache | None = None) -> Float[Tensor, "B T D"]:
        """The residual stream before the first block."""
        choices, position = self.config.embedding, inputs.position
        x = x if choices.scale == 1 else x * choices.scale
        if self.type_embedding is not None:
            x = x + self.type_embedding.weight[0]
        if self.position_embedding is not None and isinstance(choices.positions, LearnedPositions):
            x = x + self.position_embedding(position + choices.positions.offset)
        if isinstance(choices.positions, SinusoidalPositions):
            x = x + sinusoids(position, x.shape[-1]).to(x.dtype)
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        x = x if self.widen is None else self.widen(x)
        if self.smear is not None:
            x = self.smear(x, inputs.visibility, None if cache is None else cache.smear)
        return self.dropout(x)

    def _ways(self, inputs: Inputs, x: Float[Tensor, "B T D"], cache: Cache | None) -> dict[Mixer, Way | Chunks]:
        """How each kind of layer reads these inputs."""
        config, kinds = self.config, dict.fromkeys(self.config.attentions)
        attends, rotations = self._attends(inputs, product_dtype(x), cache), dict[tuple[Rotary, int], Rotation]()
        ways: dict[Mixer, Way | Chunks] = {}
        for mixer in kinds:
            rotation, width = None, mixer.rotary_width if isinstance(mixer, LatentMixer) else config.head_width
            if isinstance(mixer.positions, Rotary):
                kind = mixer.positions, width
                if kind not in rotations:
                    rotations[kind] = rotation_of(inputs.position, width, mixer.positions, config.rope_base, x.dtype)
                rotation = rotations[kind]
            ways[mixer] = Way(rotation, attends[mixer], inputs.tokens)
        chunks: dict[int, Chunks] = {}
        for mixer in config.layers:
            if not isinstance(mixer, AttendingMixer):
                reach = sizes_of(config, mixer).reach
                if reach not in chunks:
                    piece = inputs.visibility.piece
                    found = chunks_behind(piece, reach) if cache else chunks_of(inputs.visibility, reach)
                    chunks[reach] = found.for_any_number() if is_compiled(self.block(0)) else found
                ways[mixer] = chunks[reach]
        return ways

    def _attends(self, inputs: Inputs, dtype: torch.dtype, cache: Cache | None) -> dict[AttendingMixer, Attend]:
        """The kernel for each kind of layer; layers share one where they see alike, and add alike to the scores."""
        visibility, found = inputs.visibility, dict[AttendingMixer, Attend]()
        if visibility.piece.device.type == "cpu" and is_compiled(self.block(0)):
            visibility = replace(visibility, lengths=None)  # else each batch had kernels, and a graph, of its own
        made: dict[tuple[int | None, int, bool, int], Attend] = {}
        if self.relative_embedding is not None or self.slopes is not None:
            visibility = visibility.at(inputs.position)
        for mixer in dict.fromkeys(self.config.attentions):
            past = None if cache is None else cache.past(mixer.distance, mixer.num_global)
            num_before = 0 if past is None else past.position.shape[1]
            seen = visibility.within(mixer.distance, inputs.position, num_before, mixer.num_global)
            near = seen if cache is None else mixer  # what a cache has kept depends on the layer
            kind = near.distance, near.num_global, isinstance(mixer.positions, Alibi), self.config.key_width(mixer)
            if kind not in made:
                scores = Scores(self._bias(mixer, dtype), self.config.attention.cap)
                made[kind] = compile_visibility(seen, kind[-1], dtype, past, scores)
            found[mixer] = made[kind]
        return found

    def _bias(self, mixer: AttendingMixer, dtype: torch.dtype) -> Bias | None:
        """What the distance from query to key adds to the scores of a layer."""
        slopes = partial(self.slopes, dtype=dtype) if self.slopes and isinstance(mixer.positions, Alibi) else None
        if self.relative_embedding is None:
            return slopes
        return self._relative_bias if slopes is None else lambda delta: self._relative_bias(delta) + slopes(delta)

    def _relative_bias(self, delta: Int[Tensor, "B T S"]) -> Float[Tensor, "B H T S"]:
        """A number a head for each distance from query to key."""
        relative, numbers = self.config.attention.relative, self.relative_embedding
        assert relative is not None
        assert numbers is not None
        return numbers(distance_bucket(delta, relative, both_ways=not self.is_causal)).permute(0, 3, 1, 2)

    def _way_to_source(self, reading: Reading) -> Way:
        """Where positions are counted apart nothing is rotated, and no distance is known."""
        cap = self.config.attention.cap
        return Way(None, attend_under(reading.is_seen) if cap is None else attend_scored(reading.is_seen, cap=cap))


def recompute(model: nn.Module, num_layers: int) -> None:
    """Computes so many layers of each stack again in the backward pass, from the first on."""
    for module in model.modules():
        if isinstance(module, Stack):
            module.num_recomputed = min(num_layers, module.num_layers)
