"""Qwen 2 and 2.5: Llama with biases on queries, keys and values."""

from dataclasses import replace

from thetahat.interop.families.llama import LLAMA, PLAIN, SHAPE
from thetahat.interop.families.windows import UPPER
from thetahat.interop.fields import Fixed
from thetahat.interop.layers import Layers

QWEN2 = replace(
    LLAMA,
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    parts=(*SHAPE, PLAIN, Fixed({"attention.has_bias": True}), Layers(windows=UPPER)),
    inert=("use_mrope",),
)
