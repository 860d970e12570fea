"""Phi 3 and 4 mini without long rope: Llama with fused projections, and rotary positions on a share of each head."""

from dataclasses import replace

from thetahat.interop.families.llama import DOWN, LLAMA, NORMS, OUTER, OUTPUT, PLAIN, SHAPE
from thetahat.interop.families.windows import everywhere
from thetahat.interop.fields import Value
from thetahat.interop.layers import Layers, RopeNames
from thetahat.interop.names import Link

PHI3 = replace(
    LLAMA,
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    parts=(
        *SHAPE,
        Value("rms_norm_eps", "norm_epsilon", default=1e-5),
        PLAIN,
        Layers(RopeNames(share="partial_rotary_factor"), everywhere(None)),
    ),
    links=(
        *(*OUTER, OUTPUT, DOWN, *NORMS),
        Link(
            "model.layers.*.self_attn.qkv_proj",
            ("blocks.*.attention.query", "blocks.*.attention.key", "blocks.*.attention.value"),
        ),
        Link("model.layers.*.mlp.gate_up_proj", ("blocks.*.mlp.gate", "blocks.*.mlp.up")),
    ),
    assumed={"attention_bias": False},
    inert=("original_max_position_embeddings",),
)
