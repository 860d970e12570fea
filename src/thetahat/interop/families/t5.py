"""T5, T5 1.1, FLAN-T5 and mT5: relative positions, scores without a scale, RMS norms, no biases."""

from dataclasses import replace

from thetahat.interop.families.gpt2 import UNROTATED
from thetahat.interop.family import Family
from thetahat.interop.fields import Fields, Fixed, Pair, Plain, Value, refused
from thetahat.interop.names import Link
from thetahat.model.config import EncoderDecoderConfig, ModelConfig

_PROJECTIONS = {
    "relu": (False, "relu"),
    "gelu": (False, "gelu"),
    "gelu_new": (False, "gelu_tanh"),
    "silu": (False, "silu"),
    "gated-relu": (True, "relu"),
    "gated-gelu": (True, "gelu_tanh"),  # by name the exact one, in fact the other
    "gated-gelu_new": (True, "gelu_tanh"),
    "gated-silu": (True, "silu"),
}


def _mlp(fields: Fields, default: str) -> Plain:
    named = fields.get("feed_forward_proj", default)
    if not isinstance(named, str) or named not in _PROJECTIONS:
        raise refused("feed_forward_proj", named, ", ".join(_PROJECTIONS))
    is_gated, activation = _PROJECTIONS[named]
    return {"mlp.is_gated": is_gated, "mlp.activation": activation}


def _written_mlp(config: ModelConfig) -> Plain:
    wanted = (config.mlp.is_gated, config.mlp.activation)
    named = next((name for name, pair in _PROJECTIONS.items() if pair == wanted), "")
    activation = "gelu_new" if config.mlp.activation == "gelu_tanh" else config.mlp.activation
    return {"feed_forward_proj": named, "dense_act_fn": activation, "is_gated_act": config.mlp.is_gated}


def _head(fields: Fields) -> Plain:
    """T5's own head, which is the embedding, is given scaled states; that of T5 1.1 is not, tied or untied."""
    is_tied = fields.get("tie_word_embeddings", default=True)
    scales = fields.get("scale_decoder_outputs", is_tied)
    return {"ties_embeddings": is_tied, "head.scale": fields.number("d_model") ** -0.5 if scales else 1.0}


def _written_head(config: ModelConfig) -> Plain:
    return {"tie_word_embeddings": config.ties_embeddings, "scale_decoder_outputs": config.head.scale != 1}


def _kv_heads(fields: Fields) -> Plain:
    return {"num_kv_heads": fields.number("num_heads")}


def _num_layers(fields: Fields) -> int:
    return fields.number("num_layers")


_SHAPE = (
    Value("num_layers", "num_encoder_layers"),
    Value("num_decoder_layers", "num_layers", default=_num_layers),
    Value("d_model", "width"),
    Value("d_kv", "head_width"),
    Value("d_ff", "inner_width"),
    Value("num_heads", "num_heads"),
    Pair(_kv_heads),
    Value("layer_norm_epsilon", "norm_epsilon", default=1e-6),
    UNROTATED,
    Fixed({"attention.query_key_norm": "none", "attention.scale": 1.0}),
    Value("relative_attention_num_buckets", "attention.relative.num_buckets", default=32),
    Value("relative_attention_max_distance", "attention.relative.max_distance", default=128),
)


def _stack(ours: str, theirs: str, mlp: int) -> tuple[Link, ...]:
    layer = f"{theirs}.block.*.layer"
    return (
        Link(f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias", f"{ours}relative_embedding"),
        *_attention(f"{ours}blocks.*.attention", f"{layer}.0.SelfAttention"),
        Link(f"{layer}.0.layer_norm", f"{ours}blocks.*.attention_norm"),
        Link(f"{layer}.{mlp}.DenseReluDense.wi_0", f"{ours}blocks.*.mlp.gate"),
        Link(f"{layer}.{mlp}.DenseReluDense.wi_1", f"{ours}blocks.*.mlp.up"),
        Link(f"{layer}.{mlp}.DenseReluDense.wo", f"{ours}blocks.*.mlp.down"),
        Link(f"{layer}.{mlp}.layer_norm", f"{ours}blocks.*.mlp_norm"),
        Link(f"{layer}.{mlp}.DenseReluDense.wi", f"{ours}blocks.*.mlp.up", without=f"{ours}blocks.*.mlp.gate"),
        Link(f"{theirs}.final_layer_norm", f"{ours}norm"),
    )


def _attention(ours: str, theirs: str) -> tuple[Link, ...]:
    pairs = {"query": "q", "key": "k", "value": "v", "output": "o"}
    return tuple(Link(f"{theirs}.{letter}", f"{ours}.{name}") for name, letter in pairs.items())


_CROSS = "decoder.block.*.layer.1"
T5 = Family(
    model_type="t5",
    kind=EncoderDecoderConfig,
    architecture="T5ForConditionalGeneration",
    also=("T5WithLMHeadModel",),
    parts=(*_SHAPE, Pair(lambda fields: _mlp(fields, "relu"), _written_mlp), Pair(_head, _written_head)),
    links=(
        Link("shared", "embedding"),
        Link("lm_head", "head"),
        *_stack("encoder.", "encoder", 1),
        *_stack("", "decoder", 2),
        *_attention("blocks.*.cross_attention", f"{_CROSS}.EncDecAttention"),
        Link(f"{_CROSS}.layer_norm", "blocks.*.cross_norm"),
    ),
    context="",
    inert=("n_positions", "dense_act_fn", "is_gated_act"),
    leftovers=(f"{_CROSS}.EncDecAttention.relative_attention_bias.weight",),
    copies={"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"},
    unties_by_file=True,
)
MT5 = replace(
    T5,
    model_type="mt5",
    architecture="MT5ForConditionalGeneration",
    also=(),
    parts=(
        *_SHAPE,
        Pair(lambda fields: _mlp(fields, "gated-gelu"), _written_mlp),
        Value("tie_word_embeddings", "ties_embeddings", default=False),
    ),
)
