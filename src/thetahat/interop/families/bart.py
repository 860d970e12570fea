"""BART, mBART and Marian: an encoder-decoder with biases everywhere, and norms behind the sums or before."""

from dataclasses import replace

from thetahat.interop.families.bert import NUMBER, TIED
from thetahat.interop.families.gpt2 import UNROTATED
from thetahat.interop.family import ACTIVATIONS, Family
from thetahat.interop.fields import Fields, Fixed, Pair, Plain, Value, refused
from thetahat.interop.names import Link
from thetahat.model.config import EncoderDecoderConfig, ModelConfig


def _heads(fields: Fields) -> Plain:
    num_heads = fields.number("decoder_attention_heads")
    return {"num_kv_heads": num_heads, "head_width": fields.number("d_model") // num_heads}


def _scale(fields: Fields) -> Plain:
    scales = fields.get("scale_embedding", default=False)
    return {"embedding.scale": fields.number("d_model") ** 0.5 if scales else 1.0}


def _written_scale(config: ModelConfig) -> Plain:
    return {"scale_embedding": config.embedding.scale != 1}


_SHAPE = (
    Value("encoder_layers", "num_encoder_layers", also="num_hidden_layers"),
    Value("decoder_layers", "num_layers"),
    Value("d_model", "width"),
    Value(("decoder_attention_heads", "encoder_attention_heads"), "num_heads"),
    Value(("decoder_ffn_dim", "encoder_ffn_dim"), "inner_width"),
    Value("activation_function", "mlp.activation", default="gelu", choices=ACTIVATIONS),
    *(Pair(_heads), Pair(_scale, _written_scale), TIED, UNROTATED),
    Fixed(
        {
            "norm.kind": "layer",
            "norm_epsilon": 1e-5,
            "attention.query_key_norm": "none",
            "attention.has_bias": True,
            "attention.has_output_bias": True,
            "mlp.is_gated": False,
            "mlp.has_bias": True,
        }
    ),
)
_LEARNED = (
    Value("max_position_embeddings", NUMBER),
    Fixed({"embedding.positions.kind": "learned", "embedding.positions.offset": 2, "embedding.has_norm": True}),
)


def _attention(ours: str, theirs: str) -> tuple[Link, ...]:
    pairs = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    return tuple(Link(f"{theirs}.{name}", f"{ours}.{each}") for each, name in pairs.items())


def _stack(ours: str, theirs: str, norm: str) -> tuple[Link, ...]:
    layer, block = f"{theirs}.layers.*", f"{ours}blocks.*"
    return (
        Link(f"{theirs}.embed_positions", f"{ours}position_embedding"),
        Link(f"{theirs}.layernorm_embedding", f"{ours}embedding_norm"),
        *_attention(f"{block}.attention", f"{layer}.self_attn"),
        Link(f"{layer}.self_attn_layer_norm", f"{block}.attention_{norm}"),
        Link(f"{layer}.fc1", f"{block}.mlp.up"),
        Link(f"{layer}.fc2", f"{block}.mlp.down"),
        Link(f"{layer}.final_layer_norm", f"{block}.mlp_{norm}"),
        Link(f"{theirs}.layer_norm", f"{ours}norm"),
    )


def _links(norm: str) -> tuple[Link, ...]:
    layer = "model.decoder.layers.*"
    return (
        Link("model.shared", "embedding"),
        Link("lm_head.weight", "head.weight"),
        Link("final_logits_bias", "head.bias", "row"),
        *_stack("encoder.", "model.encoder", norm),
        *_stack("", "model.decoder", norm),
        *_attention("blocks.*.cross_attention", f"{layer}.encoder_attn"),
        Link(f"{layer}.encoder_attn_layer_norm", f"blocks.*.cross_{norm}"),
    )


BART = Family(
    model_type="bart",
    kind=EncoderDecoderConfig,
    architecture="BartForConditionalGeneration",
    also=("BartModel",),  # the same tensors: the head is the embedding
    parts=(*_SHAPE, *_LEARNED, Fixed({"placement": "post"})),
    links=_links("sum_norm"),
    assumed={
        "add_bias_logits": False,
        "add_final_layer_norm": False,
        "normalize_before": False,
        "normalize_embedding": True,
        "static_position_embeddings": False,
    },
    inert=(
        *("extra_pos_embeddings", "force_bos_token_to_be_generated", "num_hidden_layers"),
        *("replacing_rate", "save_step", "student_decoder_layers", "student_encoder_layers"),  # of distilled models
    ),
    prefix="model.",
    zeros=("final_logits_bias",),
    copies={
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
    },
)
MBART = replace(
    BART,
    model_type="mbart",
    architecture="MBartForConditionalGeneration",
    also=("MBartModel",),
    parts=(*_SHAPE, *_LEARNED, Fixed({"placement": "pre"})),
    links=_links("norm"),
    assumed={**BART.assumed, "add_final_layer_norm": True, "normalize_before": True},
)


def _one_vocabulary(fields: Fields) -> Plain:
    size = fields.get("vocab_size")
    if (theirs := fields.get("decoder_vocab_size", size)) != size:
        raise refused("decoder_vocab_size", theirs, f"{size}, which is vocab_size")
    return {"head.has_bias": True, "embedding.positions.kind": "sinusoidal"}


MARIAN = replace(
    BART,
    model_type="marian",
    architecture="MarianMTModel",
    also=(),
    parts=(*_SHAPE, Fixed({"placement": "post"}), Pair(_one_vocabulary)),
    assumed={**BART.assumed, "normalize_embedding": False, "share_encoder_decoder_embeddings": True}
    | {"static_position_embeddings": True},
    leftovers=("*.embed_positions.weight",),
    zeros=(),
)
