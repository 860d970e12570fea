"""ALBERT: one layer used at every depth, and embeddings narrower than it."""

from dataclasses import replace

from thetahat.interop.families.bert import BERT, POSITIONS, TRANSFORM, head, parts
from thetahat.interop.family import ACTIVATIONS
from thetahat.interop.fields import Fixed, Value
from thetahat.interop.names import Link

_LAYER = "albert.encoder.albert_layer_groups.*.albert_layers.0"
_ACTIVATION = Value("hidden_act", "mlp.activation", default="gelu_new", choices=ACTIVATIONS)

ALBERT = replace(
    BERT,
    model_type="albert",
    architecture="AlbertForMaskedLM",
    also=("AlbertForPreTraining",),
    bare="AlbertModel",
    parts=(
        *parts(POSITIONS),
        _ACTIVATION,
        Value("embedding_size", "embedding.width", default=128),
        Fixed({"shares_layers": True}),
    ),
    head_parts=(
        TRANSFORM,
        Value("hidden_act", "head.transform.activation", default="gelu_new", choices=ACTIVATIONS),
    ),
    links=(
        Link("albert.embeddings.word_embeddings", "embedding"),
        Link("albert.embeddings.position_embeddings", "position_embedding"),
        Link("albert.embeddings.token_type_embeddings", "type_embedding"),
        Link("albert.embeddings.LayerNorm", "embedding_norm"),
        Link("albert.encoder.embedding_hidden_mapping_in", "widen"),
        Link(f"{_LAYER}.attention.query", "blocks.*.attention.query"),
        Link(f"{_LAYER}.attention.key", "blocks.*.attention.key"),
        Link(f"{_LAYER}.attention.value", "blocks.*.attention.value"),
        Link(f"{_LAYER}.attention.dense", "blocks.*.attention.output"),
        Link(f"{_LAYER}.attention.LayerNorm", "blocks.*.attention_sum_norm"),
        Link(f"{_LAYER}.ffn", "blocks.*.mlp.up"),
        Link(f"{_LAYER}.ffn_output", "blocks.*.mlp.down"),
        Link(f"{_LAYER}.full_layer_layer_norm", "blocks.*.mlp_sum_norm"),
        *head("predictions.dense", "predictions.LayerNorm", "predictions.decoder.weight", "predictions.bias"),
    ),
    prefix="albert.",
    assumed={**BERT.assumed, "inner_group_num": 1, "num_hidden_groups": 1},
    inert=("down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks"),
    passengers=("albert.pooler.*", "sop_classifier.*"),
    copies={"predictions.decoder.bias": "predictions.bias"},
    doubles=("predictions.decoder.bias",),
)
