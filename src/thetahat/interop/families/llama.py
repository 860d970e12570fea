"""Llama 2 and 3, TinyLlama, SmolLM 1 and 2, Yi, DeepSeek LLM: also what other families begin from."""

from thetahat.interop.family import ACTIVATIONS, Family
from thetahat.interop.fields import Fields, Fixed, Value
from thetahat.interop.layers import Layers, RopeNames
from thetahat.interop.names import Link
from thetahat.model.config import DecoderConfig

SIZES = (
    Value("num_hidden_layers", "num_layers"),
    Value("hidden_size", "width"),
    Value("num_attention_heads", "num_heads"),
    Value("intermediate_size", "inner_width"),
)


def head_width(fields: Fields) -> int:
    """What `head_dim` is where it is not given."""
    return fields.number("hidden_size") // fields.number("num_attention_heads")


def num_heads(fields: Fields) -> int:
    """What `num_key_value_heads` is where it is not given."""
    return fields.number("num_attention_heads")


SHAPE = (
    *SIZES,
    Value("num_key_value_heads", "num_kv_heads", default=num_heads),
    Value("head_dim", "head_width", default=head_width),
    Value("rms_norm_eps", "norm_epsilon", default=1e-6),
    Value("tie_word_embeddings", "ties_embeddings", default=False),
    Value("hidden_act", "mlp.activation", default="silu", choices=ACTIVATIONS),
)
BIASES = Value("attention_bias", ("attention.has_bias", "attention.has_output_bias"), default=False)
PLAIN = Fixed({"attention.query_key_norm": "none"})

OUTER = (
    Link("model.embed_tokens", "embedding"),
    Link("model.norm", "norm"),
    Link("lm_head", "head"),
)
ATTENTION = (
    Link("model.layers.*.self_attn.q_proj", "blocks.*.attention.query"),
    Link("model.layers.*.self_attn.k_proj", "blocks.*.attention.key"),
    Link("model.layers.*.self_attn.v_proj", "blocks.*.attention.value"),
)
OUTPUT = Link("model.layers.*.self_attn.o_proj", "blocks.*.attention.output")
GATE_UP = (
    Link("model.layers.*.mlp.gate_proj", "blocks.*.mlp.gate"),
    Link("model.layers.*.mlp.up_proj", "blocks.*.mlp.up"),
)
DOWN = Link("model.layers.*.mlp.down_proj", "blocks.*.mlp.down")
NORMS = (
    Link("model.layers.*.input_layernorm", "blocks.*.attention_norm"),
    Link("model.layers.*.post_attention_layernorm", "blocks.*.mlp_norm"),
)
QUERY_KEY_NORMS = (
    Link("model.layers.*.self_attn.q_norm", "blocks.*.attention.query_norm"),
    Link("model.layers.*.self_attn.k_norm", "blocks.*.attention.key_norm"),
)
LINKS = (*OUTER, *ATTENTION, OUTPUT, *GATE_UP, DOWN, *NORMS)
LEFTOVERS = ("*.rotary_emb.inv_freq",)

LLAMA = Family(
    model_type="llama",
    kind=DecoderConfig,
    architecture="LlamaForCausalLM",
    parts=(*SHAPE, PLAIN, BIASES, Value("mlp_bias", "mlp.has_bias", default=False), Layers(RopeNames())),
    links=LINKS,
    prefix="model.",
    assumed={"rope_interleaved": False},
    inert=("is_llama_config", "max_sequence_length"),
    leftovers=LEFTOVERS,
)
