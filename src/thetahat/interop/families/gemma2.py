"""Gemma 2: norms around each sub-layer, scaled embeddings, soft caps, and a window in every other layer."""

from dataclasses import replace

from thetahat.interop.families.llama import ATTENTION, BIASES, DOWN, GATE_UP, LLAMA, OUTER, OUTPUT, SHAPE
from thetahat.interop.families.windows import every
from thetahat.interop.family import ACTIVATIONS
from thetahat.interop.fields import Fields, Fixed, Pair, Plain, Value, refused, value_at
from thetahat.interop.layers import Layers
from thetahat.interop.names import Link
from thetahat.model.config import ModelConfig


def _scales(fields: Fields) -> Plain:
    scalar = fields.get("query_pre_attn_scalar", 256)
    if not isinstance(scalar, int | float) or not scalar > 0:
        raise refused("query_pre_attn_scalar", scalar, "a number above 0")
    return {"attention.scale": float(scalar) ** -0.5, "embedding.scale": fields.number("hidden_size") ** 0.5}


def _written_scales(config: ModelConfig) -> Plain:
    scale = config.attention.scale
    scalar = config.head_width if scale is None else round(scale**-2, 6)
    return {"query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar}


def caps(attention: float | None, head: float | None) -> Pair:
    """The soft caps of scores and logits; an absent field has its class's default, which null has not."""

    def read(fields: Fields) -> Plain:
        return {
            "attention.cap": fields.or_default("attn_logit_softcapping", attention),
            "head.cap": fields.or_default("final_logit_softcapping", head),
        }

    def write(config: ModelConfig) -> Plain:
        return {
            "attn_logit_softcapping": value_at(config, "attention.cap"),
            "final_logit_softcapping": value_at(config, "head.cap"),
        }

    return Pair(read, write)


_TANH = "gelu_pytorch_tanh"
_UNLIKE = {"hidden_act", "head_dim", "tie_word_embeddings"}
GEMMA = (
    *(part for part in SHAPE if part.theirs not in _UNLIKE),
    Value("head_dim", "head_width", default=256),
    Value("tie_word_embeddings", "ties_embeddings", default=True),
    Value("hidden_activation", "mlp.activation", default=_TANH, choices={_TANH: "gelu_tanh", **ACTIVATIONS}),
    Pair(_scales, _written_scales),
    BIASES,
)
NORM = {"norm.kind": "rms", "norm.adds_one": True, "placement": "sandwich"}

GEMMA2 = replace(
    LLAMA,
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    parts=(
        *GEMMA,
        Fixed({**NORM, "attention.query_key_norm": "none"}),
        caps(50.0, 30.0),
        Layers(windows=every((), 2)),
    ),
    links=(
        *(*OUTER, *ATTENTION, OUTPUT, *GATE_UP, DOWN),
        Link("model.layers.*.input_layernorm", "blocks.*.attention_norm"),
        Link("model.layers.*.post_attention_layernorm", "blocks.*.attention_out_norm"),
        Link("model.layers.*.pre_feedforward_layernorm", "blocks.*.mlp_norm"),
        Link("model.layers.*.post_feedforward_layernorm", "blocks.*.mlp_out_norm"),
    ),
    assumed={"use_bidirectional_attention": False},
    inert=("hidden_act",),
)
