"""SmolLM 3: Llama with layers that have no rotary positions."""

from collections.abc import Sequence
from dataclasses import replace

from thetahat.interop.families.llama import BIASES, LLAMA, PLAIN, SHAPE
from thetahat.interop.families.windows import UNROTATED, without_rope
from thetahat.interop.fields import Plain, Value
from thetahat.interop.layers import Layers, RopeNames


def _written(is_plain: Sequence[bool]) -> Plain:
    return {"no_rope_layers": [int(not each) for each in is_plain]}


SMOLLM3 = replace(
    LLAMA,
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    parts=(
        *SHAPE,
        PLAIN,
        BIASES,
        Value("tie_word_embeddings", "ties_embeddings", default=True),
        Value("mlp_bias", "mlp.has_bias", default=False),
        Layers(RopeNames(default=2_000_000.0), UNROTATED, without_rope, _written),
    ),
    inert=("max_window_layers",),
)
