"""OLMo 2: norms behind the sub-layers, and on all queries and all keys together."""

from dataclasses import replace

from thetahat.interop.families.llama import (
    ATTENTION,
    BIASES,
    DOWN,
    GATE_UP,
    LLAMA,
    OUTER,
    OUTPUT,
    QUERY_KEY_NORMS,
    SHAPE,
)
from thetahat.interop.fields import Fixed, Value
from thetahat.interop.layers import Layers
from thetahat.interop.names import Link

OLMO2 = replace(
    LLAMA,
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    parts=(
        *SHAPE,
        Value("rms_norm_eps", "norm_epsilon", default=1e-5),
        Fixed({"placement": "branch", "attention.query_key_norm": "joined"}),
        BIASES,
        Layers(),
    ),
    links=(
        *(*OUTER, *ATTENTION, OUTPUT, *GATE_UP, DOWN, *QUERY_KEY_NORMS),
        Link("model.layers.*.post_attention_layernorm", "blocks.*.attention_out_norm"),
        Link("model.layers.*.post_feedforward_layernorm", "blocks.*.mlp_out_norm"),
    ),
)
