"""ModernBERT: a pre-norm encoder with rotary positions, gated networks, and a window in two layers of three."""

from collections.abc import Sequence

from thetahat.interop.families.bert import HEADLESS, HEADS, TIED
from thetahat.interop.families.llama import SIZES
from thetahat.interop.family import ACTIVATIONS, Family
from thetahat.interop.fields import Fields, Fixed, Plain, Value
from thetahat.interop.layers import Layers, RopeNames, Windows
from thetahat.interop.names import Link
from thetahat.model.config import EncoderConfig


def _slides(fields: Fields, num_layers: int) -> list[bool]:
    every = fields.number("global_attn_every_n_layers", 3)
    return [bool(layer % every) for layer in range(num_layers)]


def _written(slides: Sequence[bool], distance: int | None) -> Plain:
    """A window reaches half of `local_attention` to either side."""
    fulls = [layer for layer, is_near in enumerate(slides) if not is_near]
    every = fulls[1] - fulls[0] if len(fulls) > 1 else len(slides)
    local = {} if distance is None else {"local_attention": 2 * distance}
    return local | {"global_attn_every_n_layers": every}


WINDOWS = Windows(_slides, lambda fields: fields.number("local_attention", 128) // 2, _written)
MODERNBERT = Family(
    model_type="modernbert",
    kind=EncoderConfig,
    architecture="ModernBertForMaskedLM",
    bare="ModernBertModel",
    parts=(
        *(*SIZES, HEADS, TIED),
        Fixed(
            {
                "norm.kind": "layer",
                "embedding.has_norm": True,
                "attention.query_key_norm": "none",
                "skips_first_norm": True,
            }
        ),
        Value("norm_eps", "norm_epsilon", default=1e-5),
        Value("norm_bias", "norm.has_bias", default=False),
        Value("attention_bias", ("attention.has_bias", "attention.has_output_bias"), default=False),
        Value("hidden_activation", "mlp.activation", default="gelu", choices=ACTIVATIONS),
        Value("mlp_bias", "mlp.has_bias", default=False),
        Layers(
            RopeNames("global_rope_theta", 160_000.0, local="local_rope_theta", scales_local=True),
            WINDOWS,
        ),
    ),
    head_parts=(
        Value("classifier_activation", "head.transform.activation", default="gelu", choices=ACTIVATIONS),
        Value("classifier_bias", "head.transform.has_bias", default=False),
        Value("decoder_bias", "head.has_bias", default=True),
    ),
    bare_parts=(HEADLESS,),
    links=(
        Link("model.embeddings.tok_embeddings", "embedding"),
        Link("model.embeddings.norm", "embedding_norm"),
        Link("model.layers.*.attn_norm", "blocks.*.attention_norm"),
        Link(
            "model.layers.*.attn.Wqkv",
            ("blocks.*.attention.query", "blocks.*.attention.key", "blocks.*.attention.value"),
        ),
        Link("model.layers.*.attn.Wo", "blocks.*.attention.output"),
        Link("model.layers.*.mlp_norm", "blocks.*.mlp_norm"),
        Link("model.layers.*.mlp.Wi", ("blocks.*.mlp.gate", "blocks.*.mlp.up")),
        Link("model.layers.*.mlp.Wo", "blocks.*.mlp.down"),
        Link("model.final_norm", "norm"),
        Link("head.dense", "transform.linear"),
        Link("head.norm", "transform.norm"),
        Link("decoder", "head"),
    ),
    prefix="model.",
    assumed={"position_embedding_type": "absolute"},
    inert=(
        *("initializer_cutoff_factor", "deterministic_flash_attn", "sparse_prediction", "sparse_pred_ignore_index"),
        *("reference_compile", "compile_model", "repad_logits_with_grad", "classifier_activation", "classifier_bias"),
        *("decoder_bias", "layer_norm_eps"),
    ),
)
