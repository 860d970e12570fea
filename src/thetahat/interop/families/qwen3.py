"""Qwen 3: Llama with a norm on the queries and keys of each head. The default shape of a new decoder."""

from dataclasses import replace

from thetahat.interop.families.llama import BIASES, LINKS, LLAMA, QUERY_KEY_NORMS, SHAPE
from thetahat.interop.families.windows import UPPER
from thetahat.interop.fields import Fixed
from thetahat.interop.layers import Layers

QWEN3 = replace(
    LLAMA,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    parts=(*SHAPE, Fixed({"attention.query_key_norm": "head"}), BIASES, Layers(windows=UPPER)),
    links=(*LINKS, *QUERY_KEY_NORMS),
)
