"""GPT-2 and DistilGPT-2: learned positions, LayerNorm, matrices written [in, out], and one for q, k and v."""

from thetahat.interop.family import ACTIVATIONS, Family
from thetahat.interop.fields import Fields, Fixed, Pair, Plain, Value
from thetahat.interop.names import Link
from thetahat.model.config import DecoderConfig, ModelConfig

UNROTATED = Fixed({"layers": [{"kind": "attention", "positions": {"kind": "none"}}]})


def _heads(fields: Fields) -> Plain:
    num_heads = fields.number("n_head")
    return {"num_kv_heads": num_heads, "head_width": fields.number("n_embd") // num_heads}


def _inner(fields: Fields) -> Plain:
    return {"inner_width": fields.get("n_inner", 4 * fields.number("n_embd"))}


def _written_inner(config: ModelConfig) -> Plain:
    return {"n_inner": None if config.inner_width == 4 * config.width else config.inner_width}


GPT2 = Family(
    model_type="gpt2",
    kind=DecoderConfig,
    architecture="GPT2LMHeadModel",
    parts=(
        Value("n_layer", "num_layers"),
        Value("n_embd", "width"),
        Value("n_head", "num_heads"),
        Pair(_heads),
        Pair(_inner, _written_inner),
        Value("n_positions", "embedding.positions.number", also="n_ctx"),  # a converter of llama.cpp asks for n_ctx
        Value("layer_norm_epsilon", "norm_epsilon", default=1e-5),
        Value("activation_function", "mlp.activation", default="gelu_new", choices=ACTIVATIONS),
        Value("tie_word_embeddings", "ties_embeddings", default=True),
        UNROTATED,
        Fixed(
            {
                "norm.kind": "layer",
                "embedding.positions.kind": "learned",
                "attention.query_key_norm": "none",
                "attention.has_bias": True,
                "attention.has_output_bias": True,
                "mlp.is_gated": False,
                "mlp.has_bias": True,
            }
        ),
    ),
    links=(
        Link("transformer.wte", "embedding"),
        Link("transformer.wpe", "position_embedding"),
        Link("transformer.h.*.ln_1", "blocks.*.attention_norm"),
        Link(
            "transformer.h.*.attn.c_attn",
            ("blocks.*.attention.query", "blocks.*.attention.key", "blocks.*.attention.value"),
            "transposed",
        ),
        Link("transformer.h.*.attn.c_proj", "blocks.*.attention.output", "transposed"),
        Link("transformer.h.*.ln_2", "blocks.*.mlp_norm"),
        Link("transformer.h.*.mlp.c_fc", "blocks.*.mlp.up", "transposed"),
        Link("transformer.h.*.mlp.c_proj", "blocks.*.mlp.down", "transposed"),
        Link("transformer.ln_f", "norm"),
        Link("lm_head", "head"),
    ),
    prefix="transformer.",
    context="n_positions",
    assumed={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    inert=("reorder_and_upcast_attn", "n_special", "predict_special_tokens"),
    leftovers=("transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"),
)
