"""GPT-NeoX and Pythia: both sub-layers read one stream, a quarter of each head is rotated, q, k, v joined by head."""

from thetahat.interop.families.llama import SIZES, head_width, num_heads
from thetahat.interop.family import ACTIVATIONS, Family
from thetahat.interop.fields import Fields, Fixed, Pair, Plain, Value, refused
from thetahat.interop.layers import Layers, RopeNames
from thetahat.interop.names import Link
from thetahat.model.config import DecoderConfig


def _heads(fields: Fields) -> Plain:
    return {"num_kv_heads": num_heads(fields), "head_width": head_width(fields)}


def _repeated(fields: Fields) -> Plain:
    """Later versions of transformers 4 repeat the two fields of rotary positions under the names of other families."""
    named = {"partial_rotary_factor": ("rotary_pct", 0.25), "rope_theta": ("rotary_emb_base", 10_000)}
    for name, (first, default) in named.items():
        if (value := fields.get(first, default)) != fields.get(name, value):
            raise refused(name, fields.get(name), f"{value}, which is {first}")
    return {}


GPT_NEOX = Family(
    model_type="gpt_neox",
    kind=DecoderConfig,
    architecture="GPTNeoXForCausalLM",
    parts=(
        *SIZES,
        *(Pair(_heads), Pair(_repeated)),
        Value("layer_norm_eps", "norm_epsilon", default=1e-5),
        Value("hidden_act", "mlp.activation", default="gelu", choices=ACTIVATIONS),
        Value("tie_word_embeddings", "ties_embeddings", default=False),
        Value("use_parallel_residual", "placement", default=True, choices={True: "parallel", False: "pre"}),
        Fixed(
            {
                "norm.kind": "layer",
                "attention.query_key_norm": "none",
                "mlp.is_gated": False,
                "mlp.has_bias": True,
            }
        ),
        Value("attention_bias", ("attention.has_bias", "attention.has_output_bias"), default=True),
        Layers(RopeNames(base="rotary_emb_base", share="rotary_pct", share_default=0.25)),
    ),
    links=(
        Link("gpt_neox.embed_in", "embedding"),
        Link("gpt_neox.layers.*.input_layernorm", "blocks.*.attention_norm"),
        Link(
            "gpt_neox.layers.*.attention.query_key_value",
            ("blocks.*.attention.query", "blocks.*.attention.key", "blocks.*.attention.value"),
            "heads",
        ),
        Link("gpt_neox.layers.*.attention.dense", "blocks.*.attention.output"),
        Link("gpt_neox.layers.*.post_attention_layernorm", "blocks.*.mlp_norm"),
        Link("gpt_neox.layers.*.mlp.dense_h_to_4h", "blocks.*.mlp.up"),
        Link("gpt_neox.layers.*.mlp.dense_4h_to_h", "blocks.*.mlp.down"),
        Link("gpt_neox.final_layer_norm", "norm"),
        Link("embed_out", "head"),
    ),
    prefix="gpt_neox.",
    leftovers=("*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq"),
)
