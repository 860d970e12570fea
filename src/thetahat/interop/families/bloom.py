"""BLOOM: ALiBi, a norm behind the embeddings, q, k, v joined by head."""

from thetahat.interop.family import Family
from thetahat.interop.fields import Fields, Fixed, MisfitError, Pair, Plain, Value, refused
from thetahat.interop.names import Link
from thetahat.model.config import DecoderConfig, ModelConfig


def _read_sizes(fields: Fields) -> Plain:
    """Files of before transformers 4.21 have other names for two of them."""
    older = {"hidden_size": "n_embed", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
    found = {name: fields.number(name if fields.get(name) else other) for name, other in older.items()}
    width, heads = found["hidden_size"], found["n_head"]
    if (inner := fields.get("n_inner", 4 * width)) != 4 * width:
        raise refused("n_inner", inner, f"{4 * width}, or absent")
    return {
        "num_layers": found["n_layer"],
        "width": width,
        **dict.fromkeys(("num_heads", "num_kv_heads"), heads),
        "head_width": width // heads,
        "inner_width": 4 * width,
    }


def _write_sizes(config: ModelConfig) -> Plain:
    shape = (config.num_kv_heads, config.head_width * config.num_heads, config.inner_width)
    if shape != (config.num_heads, config.width, 4 * config.width):
        raise MisfitError("other widths, or fewer keys than queries")
    return {"n_layer": config.num_layers, "hidden_size": config.width, "n_head": config.num_heads}


BLOOM = Family(
    model_type="bloom",
    kind=DecoderConfig,
    architecture="BloomForCausalLM",
    parts=(
        Pair(_read_sizes, _write_sizes),
        Value("layer_norm_epsilon", "norm_epsilon", default=1e-5),
        Value("tie_word_embeddings", "ties_embeddings", default=True),
        Fixed(
            {
                "norm.kind": "layer",
                "layers": [{"kind": "attention", "positions": {"kind": "alibi"}}],
                "attention": {"query_key_norm": "none", "has_bias": True, "has_output_bias": True},
                "mlp": {"is_gated": False, "has_bias": True, "activation": "gelu_tanh"},
                "embedding.has_norm": True,
            }
        ),
    ),
    links=(
        Link("transformer.word_embeddings", "embedding"),
        Link("transformer.word_embeddings_layernorm", "embedding_norm"),
        Link("transformer.h.*.input_layernorm", "blocks.*.attention_norm"),
        Link(
            "transformer.h.*.self_attention.query_key_value",
            ("blocks.*.attention.query", "blocks.*.attention.key", "blocks.*.attention.value"),
            "heads",
        ),
        Link("transformer.h.*.self_attention.dense", "blocks.*.attention.output"),
        Link("transformer.h.*.post_attention_layernorm", "blocks.*.mlp_norm"),
        Link("transformer.h.*.mlp.dense_h_to_4h", "blocks.*.mlp.up"),
        Link("transformer.h.*.mlp.dense_4h_to_h", "blocks.*.mlp.down"),
        Link("transformer.ln_f", "norm"),
        Link("lm_head", "head"),
    ),
    prefix="transformer.",
    context="seq_length",
    assumed={"apply_residual_connection_post_layernorm": False},
    inert=(
        *(
            "slow_but_exact",
            "offset_alibi",
            "masked_softmax_fusion",
            "bias_dropout_fusion",
            "attention_softmax_in_fp32",
        ),
        *("skip_bias_add", "skip_bias_add_qkv"),
    ),
)
