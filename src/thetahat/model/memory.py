"""Bytes that a model needs, counted from its shape: what the backward pass needs, logits, keys and values."""

from dataclasses import dataclass

from msgspec.structs import replace

from thetahat.model.attention.window import chunk_size, keys_read, suits_windows
from thetahat.model.config import (
    Alibi,
    AttendingMixer,
    AttentionMixer,
    DecoderConfig,
    Dtype,
    EncoderDecoderConfig,
    ExpertsConfig,
    LatentMixer,
    LayerNormConfig,
    LearnedScaleConfig,
    ModelConfig,
    SmearConfig,
    TransformerConfig,
)
from thetahat.model.recurrence.count import recurrent_numbers, state_numbers

NORMS = {"pre": 2, "post": 2, "sandwich": 4, "branch": 2, "parallel": 2, "none": 0}
"""Norms of a block without attention to a source, by their placement."""
LOGITS = 2
"""Copies of the logits at the beginning of the backward pass: themselves, and their gradient."""
SHARED_LOGITS = 4
"""The same of a part of the vocabulary that ranks share: those below the largest, their exponentials, two gradients."""


@dataclass(frozen=True, slots=True)
class Widths:
    """Bytes of a number: of what parameters, norms and logits hold, and of what matrices are multiplied with."""

    full: int
    product: int

    @property
    def num_casts(self) -> int:
        """Copies that maps of one input keep of it: under autocast each casts its own, from the second on."""
        return 0 if self.full == self.product else 1


def widths_of(dtype: Dtype) -> Widths:
    """The bytes of a number under a config's dtype."""
    full = 8 if dtype == "float64" else 4
    return Widths(full, 2 if dtype == "bfloat16" else full)


def kept_per_position(
    config: ModelConfig, dtype: Dtype, context: int, source_context: int = 0, *, masks: bool = False
) -> float:
    r"""Bytes that one position of a row keeps for the backward pass, logits apart.

    With D, F, H, G, K as in the config, and full and product the bytes of a number (`Widths`), a layer keeps
    $\text{product} \cdot (2D + 2HK + 3GK) + \text{full} \cdot H$ and $4F \cdot \text{product}$ (2F without a gate, F of
    a ReLU); a norm over w numbers keeps its input and, of the RMS kind, what it divided: $\text{full} \cdot (1 + 1) w$.
    A cap or a bias of the scores keeps them whole, H T numbers twice. In an encoder-decoder a position of the target
    has its share of the source that the encoder read: `source_context` / `context`. With `masks`, as on a CPU, a layer
    whose window is shorter than the row keeps its mask, a number for each key of a chunk or of the row, beside the
    relation, a byte for each.
    """
    sizes = widths_of(dtype)
    reads = isinstance(config, EncoderDecoderConfig)
    kept = sum(_of_layers(config, sizes, context, config.num_layers))
    kept += _around(config, sizes, context) + sizes.product * config.width
    if isinstance(config, DecoderConfig):  # beside each block what the last norm keeps, and what the head reads
        of_head = _norm(config, config.width, sizes) if config.placement != "post" else 0.0
        kept += config.num_future * (
            _of_layer(config.of_future, 0, sizes, context) + of_head + sizes.product * config.width
        )
    if masks:
        kept += _masks(config, sizes, context)
    if reads:
        share = source_context / context
        encoder = replace(config, value_embeddings=None)
        states = sum(_of_layers(encoder, sizes, source_context, config.num_encoder_layers))
        states += _around(config, sizes, source_context)
        groups = config.num_kv_heads * config.head_width
        memory = sizes.product * (config.width + config.num_layers * 2 * groups * (1 + sizes.num_casts))
        if config.attention.query_key_norm != "none":
            memory += config.num_layers * _norm(config, groups, sizes)
        kept += share * (states + memory) + config.num_layers * _of_cross(config, sizes, source_context)
    return kept


def kept_in_blocks(config: ModelConfig, dtype: Dtype, context: int, source_context: int = 0) -> float:
    """Those of `kept_per_position` that belong to the blocks of the stack that the head reads."""
    sizes = widths_of(dtype)
    cross = _of_cross(config, sizes, source_context) if isinstance(config, EncoderDecoderConfig) else 0.0
    return sum(_of_layers(config, sizes, context, config.num_layers)) + config.num_layers * cross


def saved_per_position(config: ModelConfig, dtype: Dtype, context: int, num_recomputed: int) -> float:
    r"""Bytes of `kept_per_position` that are not kept where so many layers are computed again in the backward pass.

    Such a layer keeps its input alone, $\text{full} \cdot D$, until it is read again; one of them is whole at a time.
    """
    if num_recomputed == 0:
        return 0.0
    sizes = widths_of(dtype)
    cross = _of_cross(config, sizes, context) if isinstance(config, EncoderDecoderConfig) else 0.0
    number = min(num_recomputed, config.num_layers)
    layers = [layer + cross for layer in _of_layers(config, sizes, context, number)]
    groups = config.num_kv_heads * config.head_width
    is_read = [layer for layer in range(config.num_layers) if _reads(config, layer)]
    shared = {config.keys_of(layer) for layer in is_read if config.keys_of(layer) < number}
    kept = number * sizes.full * config.width + len(shared) * sizes.product * 2 * groups  # which others read
    return sum(layers) - kept - max(layers)


def _reads(config: TransformerConfig, layer: int) -> bool:
    """Whether it is an attention with the keys and values of another."""
    return isinstance(config.mixer(layer), AttentionMixer) and config.keys_of(layer) != layer


def _around(config: TransformerConfig, sizes: Widths, context: int) -> float:
    """Of a stack: what embeddings, the last norm and a bias of the scores keep; tokens are int64."""
    narrow = config.embedding.width
    sloped = {(one.distance, one.num_global) for one in config.attentions if isinstance(one.positions, Alibi)}
    kept = sizes.product * config.num_heads * context * (len(sloped) + bool(config.attention.relative))
    kept += 8 + (0.0 if config.placement == "post" else _norm(config, config.width, sizes))
    kept += _norm(config, narrow or config.width, sizes) if config.embedding.has_norm else 0
    kept += _of_smear(config, config.embedding.smear, sizes) if config.embedding.smear else 0
    return kept + (sizes.product * narrow if narrow else 0) + _dropped(config, sizes.full)


def _of_smear(config: TransformerConfig, smear: SmearConfig, sizes: Widths) -> float:
    """The position before, what the gate reads, its score, share and product; an int64 for the place, and a bool."""
    return sizes.full * float(config.width + min(smear.gate_width, config.width) + 2) + 9


def _of_layers(config: TransformerConfig, sizes: Widths, context: int, number: int) -> list[float]:
    """Each of the first so many layers."""
    return [_of_layer(config, layer, sizes, context) for layer in range(number)]


def _experts(config: TransformerConfig, experts: ExpertsConfig, sizes: Widths) -> float:
    r"""Of experts in place of a network, with k, E and F of theirs.

    $\text{product} \cdot k (\text{network}(F) + 2 D)$, the position once for each expert and what each makes of it,
    $\text{full} \cdot (E + 3 k)$ for scores and weights, and $8 (E + 3 k)$ for their places. Where maps cast what they
    read, the router keeps it as it was, and the experts share one copy.
    """
    number, chosen = experts.num_experts, experts.num_chosen
    kept = sizes.product * chosen * (_network(config, experts.inner_width or config.inner_width) + 2 * config.width)
    kept += (sizes.full + 8) * (number + 3 * chosen)
    readers = 0 if experts.shared_width else 1 + config.mlp.is_gated
    kept += sizes.num_casts * config.width * (sizes.full - readers * sizes.product)
    return kept + sizes.product * (_network(config, experts.shared_width) if experts.shared_width else 0)


def _of_layer(config: TransformerConfig, layer: int, sizes: Widths, context: int) -> float:
    mixer, experts = config.mixer(layer), config.experts_of(layer)
    kept = NORMS[config.placement] * _norm(config, config.width, sizes)
    if config.placement == "parallel":
        kept -= sizes.full * config.width  # both norms read the same states
    num_casts = sizes.num_casts * ((0 if _reads(config, layer) else 2) + config.mlp.is_gated)
    inputs = 2 * config.width + num_casts * config.width  # of the mixer's maps, and of the network's
    kept += sizes.product * inputs
    match mixer:
        case AttentionMixer():
            kept += _of_attention(config, sizes, context, is_reader=_reads(config, layer))
            kept += _of_value_embedding(config, sizes) if layer in config.value_layers else 0
        case LatentMixer():
            kept += _of_latent(config, mixer, sizes, context)
        case _:
            kept += sizes.full * recurrent_numbers(config, mixer)
    if experts is None:
        kept += sizes.product * _network(config, config.inner_width)
    else:
        kept += _experts(config, experts, sizes)
    return kept + _dropped(config, 2 * sizes.product) + _scaled(config, sizes, 2)


def _of_attention(config: TransformerConfig, sizes: Widths, context: int, *, is_reader: bool) -> float:
    """Queries, keys, values, what is read of them, and scores; keys and values of another layer are kept there."""
    queries = config.num_heads * config.head_width
    groups = 0 if is_reader else config.num_kv_heads * config.head_width
    kept = sizes.product * (2 * queries + 2 * groups) + _scores(config, sizes, context)
    if config.attention.query_key_norm != "none":
        kept += _norm(config, queries, sizes) + _norm(config, groups, sizes)
    return kept + _sinks(config, sizes, context)


def _of_value_embedding(config: TransformerConfig, sizes: Widths) -> float:
    """The row of a table, the gates and what they multiply it by, and a copy of what they read where it is cast."""
    assert config.value_embeddings is not None
    gate_width = min(config.value_embeddings.gate_width, config.width)
    kept = config.num_kv_heads * (config.head_width + 2) + sizes.num_casts * gate_width
    return float(sizes.product * kept)


def _of_latent(config: TransformerConfig, mixer: LatentMixer, sizes: Widths, context: int) -> float:
    """Queries, keys, values and what is read of them, all as wide as a key; the width of values of that; latents."""
    wide, inside = config.num_heads * config.key_width(mixer), config.num_heads * config.head_width
    kept = sizes.product * (4 * wide + inside + mixer.latent_width * (1 + sizes.num_casts))
    kept += _norm(config, mixer.latent_width, sizes)
    if mixer.query_width:
        kept += _norm(config, mixer.query_width, sizes) + sizes.product * mixer.query_width
    return kept + _scores(config, sizes, context) + _sinks(config, sizes, context, config.key_width(mixer))


def _of_cross(config: TransformerConfig, sizes: Widths, source_context: int) -> float:
    """Of a layer's attention to a source, beside the keys and values, which belong to the source."""
    queries = config.num_heads * config.head_width
    kept = NORMS[config.placement] // 2 * _norm(config, config.width, sizes)
    scores = 2.0 * sizes.product * source_context if config.attention.cap is not None else sizes.full
    kept += sizes.product * (config.width + 2 * queries) + config.num_heads * scores  # no positions, so no bias
    kept += source_context  # the mask
    if config.attention.query_key_norm != "none":
        kept += _norm(config, queries, sizes)
    return kept + _sinks(config, sizes, 0) + _dropped(config, sizes.product) + _scaled(config, sizes, 1)


def _masks(config: TransformerConfig, sizes: Widths, context: int) -> float:
    """What windows hide, as the kernel reads it."""
    windows = [one for one in config.attentions_of(config.num_layers) if one.distance is not None]
    hiding = [one for one in windows if (one.distance or 0) + one.num_global < context - 1]
    read = {one: _keys_read(config, one, context) for one in hiding}
    copied = 2.0 * config.num_kv_heads * config.head_width  # keys and values, where chunks of them are put together
    again = [copied * (read[one] / chunk_size(one.distance or 0) - 1) for one in hiding if read[one] < context]
    return float(sizes.product * (sum(read[one] for one in hiding) + sum(again)) + sum(read.values()))


def _keys_read(config: TransformerConfig, mixer: AttendingMixer, context: int) -> int:
    """Keys of a query in the mask that the kernel reads: those of its chunk, or all of the row."""
    choices, distance = config.attention, mixer.distance or 0
    is_plain = choices.cap is None and choices.relative is None and not isinstance(mixer.positions, Alibi)
    if is_plain and suits_windows(context, distance, mixer.num_global):
        return keys_read(distance, mixer.num_global)
    return context


def _scores(config: TransformerConfig, sizes: Widths, context: int) -> float:
    """A fused kernel keeps log Z of each head; scores that are changed are kept whole."""
    if config.attention.cap is not None:
        return 2.0 * sizes.product * config.num_heads * context
    if config.attention.relative is not None:
        return 1.0 * sizes.product * config.num_heads * context
    return 1.0 * sizes.full * config.num_heads


def _sinks(config: TransformerConfig, sizes: Widths, context: int, key_width: int = 0) -> float:
    """A coordinate more in queries, keys, values and what is read, of which the rest is copied; a longer bias."""
    if config.attention.sinks == "none" or config.attention.cap is not None:
        return 0.0
    groups = config.num_heads if key_width else config.num_kv_heads
    kept = config.num_heads * (2.0 + (key_width or config.head_width)) + 2.0 * groups
    sloped = any(isinstance(mixer.positions, Alibi) for mixer in config.attentions)
    return sizes.product * (kept + (config.num_heads * context if sloped else 0))


def _network(config: TransformerConfig, inner_width: int) -> float:
    if config.mlp.is_gated:
        return 4.0 * inner_width
    return inner_width * (1.0 if config.mlp.activation == "relu" else 2.0)


def _norm(config: TransformerConfig, width: int, sizes: Widths) -> float:
    copies = 1 if isinstance(config.norm, LayerNormConfig) else 2
    return sizes.full * float(copies * width)


def _scaled(config: TransformerConfig, sizes: Widths, times: int) -> float:
    """What a learned scale multiplies."""
    return float(times * sizes.product * config.width) if isinstance(config.residual, LearnedScaleConfig) else 0.0


def _dropped(config: TransformerConfig, width: int) -> float:
    """What dropout keeps: which numbers were set to 0, as wide as these."""
    return float(width * config.width) if config.dropout else 0.0


def kept_of_matrices(num_weights: int, dtype: Dtype) -> int:
    """Bytes of the copies of matrices that autocast keeps until the backward pass."""
    sizes = widths_of(dtype)
    return sizes.product * num_weights if sizes.num_casts else 0


def logit_bytes(vocab_size: int, num_targets: int, dtype: Dtype, num_future: int = 0) -> int:
    r"""The logits of so many targets at the beginning of the backward pass: $\text{LOGITS} \cdot V \cdot n$ numbers.

    Those of each further token behind the next one wait beside them.
    """
    return (LOGITS + num_future) * widths_of(dtype).full * vocab_size * num_targets


def cache_bytes(config: ModelConfig, context: int, dtype: Dtype, source_context: int = 0) -> int:
    r"""Keys and values of a text of `context` tokens: $2 G K \sum_\text{layers} \min(T, \text{distance})$ numbers.

    The sum is over layers with keys and values of their own; of latent attention it is the latent and the rotated key.
    Those of global positions are kept beside those of a window. A recurrent layer has its state, of one size whatever
    the text, and smear the last embedding. In an encoder-decoder the source's stand beside them, in each layer of the
    decoder. They have the parameters' dtype.
    """
    mixers = [config.mixer(layer) for layer in range(config.num_layers) if not _reads(config, layer)]
    attentions = [mixer for mixer in mixers if isinstance(mixer, AttendingMixer)]
    kept = [_kept(config, mixer) * min(context, (mixer.distance or context) + mixer.num_global) for mixer in attentions]
    states = [state_numbers(config, mixer) for mixer in mixers if not isinstance(mixer, AttendingMixer)]
    source = config.num_layers * source_context if isinstance(config, EncoderDecoderConfig) else 0
    last = config.width if config.embedding.smear else 0
    pairs = 2 * config.num_kv_heads * config.head_width * source
    return widths_of(dtype).full * (sum(kept) + pairs + sum(states) + last)


def _kept(config: TransformerConfig, mixer: AttendingMixer) -> int:
    """Numbers that a cache has of a position."""
    if isinstance(mixer, LatentMixer):
        return mixer.latent_width + mixer.rotary_width
    return 2 * config.num_kv_heads * config.head_width
