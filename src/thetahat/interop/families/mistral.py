"""Mistral 7B and what has its shape: Llama's with a window in every layer, which newer models do without."""

from dataclasses import replace

from thetahat.interop.families.llama import LLAMA, PLAIN, SHAPE
from thetahat.interop.families.windows import everywhere
from thetahat.interop.layers import Layers

MISTRAL = replace(
    LLAMA,
    model_type="mistral",
    architecture="MistralForCausalLM",
    parts=(*SHAPE, PLAIN, Layers(windows=everywhere(4096))),
)
