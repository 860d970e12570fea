"""Gemma 3's language model: Gemma 2 with norms in place of caps, five layers of six with a window, and two bases."""

from dataclasses import replace

from thetahat.interop.families.gemma2 import GEMMA, GEMMA2, NORM, caps
from thetahat.interop.families.llama import QUERY_KEY_NORMS
from thetahat.interop.families.windows import every
from thetahat.interop.fields import Fixed
from thetahat.interop.layers import Layers, RopeNames

GEMMA3 = replace(
    GEMMA2,
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    parts=(
        *GEMMA,
        Fixed({**NORM, "attention.query_key_norm": "head"}),
        caps(None, None),
        Layers(
            RopeNames(default=1_000_000.0, local="rope_local_base_freq"),
            every(("sliding_window_pattern", "_sliding_window_pattern"), 6),
        ),
    ),
    links=(*GEMMA2.links, *QUERY_KEY_NORMS),
)
