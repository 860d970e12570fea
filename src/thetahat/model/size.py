"""How many parameters a shape has: arithmetic alone, so that a list of shapes does not wait for torch."""

from thetahat.model.config import (
    AttentionMixer,
    DecoderConfig,
    DeltaMixer,
    EncoderDecoderConfig,
    LatentMixer,
    LayerNormConfig,
    LearnedPositions,
    LearnedScaleConfig,
    LinearMixer,
    ModelConfig,
    Placement,
    RecurrentMixer,
    ResidualConfig,
    StateSpaceMixer,
    TransformerConfig,
)
from thetahat.model.recurrence.count import sizes_of

NORMS: dict[Placement, int] = {"pre": 1, "post": 1, "sandwich": 2, "branch": 1, "parallel": 1, "none": 0}
"""Norms that a block has for each of the two, or three, things in it."""


def num_parameters(config: ModelConfig, vocab_size: int, num_labels: int = 0) -> int:
    """Every trainable number, a tied embedding once; a head over labels is tied to nothing."""
    width = config.embedding.width or config.width
    is_pair = isinstance(config, EncoderDecoderConfig)
    total = vocab_size * width + _stack(config, config.num_layers, reads_source=is_pair)
    if isinstance(config, EncoderDecoderConfig):
        total += _stack(config, config.num_encoder_layers, reads_source=False)
    total += len(config.value_layers) * _value_embedding(config, vocab_size)
    if isinstance(config, DecoderConfig):
        total += config.num_future * _block(config.of_future, 0, reads_source=False)
    head, outputs = config.head, num_labels or vocab_size
    if head.transform:
        total += _linear(config.width, width, head.transform.has_bias)
        total += _norm(config, width) if head.transform.has_norm else 0
    read = width if head.transform else config.width
    is_tied = config.ties_embeddings and not num_labels
    return total + (0 if is_tied else outputs * read) + (outputs if head.has_bias else 0)


def _stack(config: TransformerConfig, num_layers: int, *, reads_source: bool) -> int:
    """All of a stack but its table of tokens."""
    choices, width = config.embedding, config.embedding.width or config.width
    total = choices.num_types * width
    if isinstance(choices.positions, LearnedPositions):
        total += (choices.positions.number + choices.positions.offset) * width
    if relative := config.attention.relative:
        total += relative.num_buckets * config.num_heads
    total += _norm(config, width) if choices.has_norm else 0
    total += _linear(width, config.width, True) if choices.width else 0
    total += min(choices.smear.gate_width, config.width) + 1 if choices.smear else 0
    layers = range(1 if config.shares_layers else num_layers)
    total += sum(_block(config, layer, reads_source=reads_source) for layer in layers)
    if config.skips_first_norm and config.placement in {"pre", "sandwich", "parallel"}:
        total -= _norm(config, config.width)
    return total + (0 if config.placement == "post" else _norm(config, config.width))


def _block(config: TransformerConfig, layer: int, *, reads_source: bool) -> int:
    branches, mixer = 3 if reads_source else 2, config.mixer(layer)
    norms = NORMS[config.placement] * branches * _norm(config, config.width)
    match mixer:
        case AttentionMixer():
            mixing = _attention(config, is_reader=config.keys_of(layer) != layer)
        case LatentMixer():
            mixing = _latent(config, mixer)
        case _:
            mixing = _recurrent(config, mixer)
    mixing += _attention(config) if reads_source else 0
    return norms + branches * _scales(config.residual, config.width) + mixing + _of_layer(config, layer)


def _scales(residual: ResidualConfig, width: int) -> int:
    """Of one branch."""
    if not isinstance(residual, LearnedScaleConfig):
        return 0
    return width if residual.per == "number" else 1


def _attention(config: TransformerConfig, *, is_reader: bool = False) -> int:
    choices, queries = config.attention, config.num_heads * config.head_width
    groups = 0 if is_reader else config.num_kv_heads * config.head_width
    total = _linear(config.width, queries + 2 * groups, choices.has_bias)
    total += _linear(queries, config.width, choices.has_output_bias)
    total += config.num_heads if choices.sinks == "learned" else 0
    match choices.query_key_norm:
        case "head":
            return total + (1 if is_reader else 2) * _norm(config, config.head_width)
        case "joined":
            return total + _norm(config, queries) + _norm(config, groups)
        case "none":
            return total


def _value_embedding(config: TransformerConfig, vocab_size: int) -> int:
    """Of one layer: a table of tokens and a gate for each group of heads."""
    if config.value_embeddings is None:
        return 0
    gate_width = min(config.value_embeddings.gate_width, config.width)
    return config.num_kv_heads * (vocab_size * config.head_width + gate_width)


def _latent(config: TransformerConfig, mixer: LatentMixer) -> int:
    inside, rotated = config.num_heads * config.head_width, config.num_heads * mixer.rotary_width
    total = (mixer.query_width or config.width) * (inside + rotated) + 2 * mixer.latent_width * inside
    total += config.width * (mixer.latent_width + mixer.rotary_width) + _norm(config, mixer.latent_width)
    total += _linear(inside, config.width, config.attention.has_output_bias)
    total += config.num_heads if config.attention.sinks == "learned" else 0
    return total + (config.width * mixer.query_width + _norm(config, mixer.query_width) if mixer.query_width else 0)


def _recurrent(config: TransformerConfig, mixer: RecurrentMixer) -> int:
    """Of a layer with a state, the norm of what it reads included."""
    sizes, inside = sizes_of(config, mixer), config.num_heads * config.head_width
    filters = sizes.conv * (sizes.reach + 1)
    match mixer:
        case LinearMixer():
            total = 4 * config.width * inside
            if mixer.decay != "none":
                total += config.width * inside + _norm(config, config.head_width)
            return total + (sizes.heads * (config.width + 1) if mixer.decay == "learned" else 0)
        case DeltaMixer():
            values = sizes.heads * sizes.value
            total = config.width * (2 * inside + 3 * values + sizes.heads) + filters + _norm(config, sizes.value)
            return total + (sizes.heads * (config.width + 2) if mixer.has_decay else 0)
        case StateSpaceMixer():
            values = sizes.heads * sizes.value
            total = config.width * (3 * values + 2 * mixer.state_width + sizes.heads) + filters + sizes.conv
            return total + 3 * sizes.heads + _norm(config, values)


def _of_layer(config: TransformerConfig, layer: int) -> int:
    """The network of a layer, or its experts, whoever chooses them."""
    if (experts := config.experts_of(layer)) is None:
        return _network(config, config.inner_width)
    total = experts.num_experts * _network(config, experts.inner_width or config.inner_width)
    total += _linear(config.width, experts.num_experts, experts.has_bias)
    return total + (_network(config, experts.shared_width) if experts.shared_width else 0)


def _network(config: TransformerConfig, inner_width: int) -> int:
    into = 2 if config.mlp.is_gated else 1
    bias = config.mlp.has_bias
    return into * _linear(config.width, inner_width, bias) + _linear(inner_width, config.width, bias)


def _linear(columns: int, rows: int, has_bias: bool) -> int:
    return rows * columns + (rows if has_bias else 0)


def _norm(config: TransformerConfig, width: int) -> int:
    return width * (2 if isinstance(config.norm, LayerNormConfig) and config.norm.has_bias else 1)
