"""DistilBERT: BERT without token types, under other names."""

from thetahat.interop.families.bert import ASSUMED, HEADLESS, POSITIONS, SHAPE, TIED, TRANSFORM
from thetahat.interop.families.gpt2 import UNROTATED
from thetahat.interop.family import ACTIVATIONS, Family
from thetahat.interop.fields import Fields, Fixed, Pair, Plain, Value
from thetahat.interop.names import Link
from thetahat.model.config import EncoderConfig


def _heads(fields: Fields) -> Plain:
    num_heads = fields.number("n_heads")
    return {"num_kv_heads": num_heads, "head_width": fields.number("dim") // num_heads}


_LAYER = "distilbert.transformer.layer.*"
DISTILBERT = Family(
    model_type="distilbert",
    kind=EncoderConfig,
    architecture="DistilBertForMaskedLM",
    bare="DistilBertModel",
    parts=(
        Value("n_layers", "num_layers"),
        Value("dim", "width"),
        Value("n_heads", "num_heads"),
        Value("hidden_dim", "inner_width"),
        *(Pair(_heads), SHAPE, UNROTATED, TIED, Fixed({"norm_epsilon": 1e-12})),
        POSITIONS,
        Value("activation", "mlp.activation", default="gelu", choices=ACTIVATIONS),
    ),
    head_parts=(
        TRANSFORM,
        Value("activation", "head.transform.activation", default="gelu", choices=ACTIVATIONS),
    ),
    bare_parts=(HEADLESS,),
    links=(
        Link("distilbert.embeddings.word_embeddings", "embedding"),
        Link("distilbert.embeddings.position_embeddings", "position_embedding"),
        Link("distilbert.embeddings.LayerNorm", "embedding_norm"),
        Link(f"{_LAYER}.attention.q_lin", "blocks.*.attention.query"),
        Link(f"{_LAYER}.attention.k_lin", "blocks.*.attention.key"),
        Link(f"{_LAYER}.attention.v_lin", "blocks.*.attention.value"),
        Link(f"{_LAYER}.attention.out_lin", "blocks.*.attention.output"),
        Link(f"{_LAYER}.sa_layer_norm", "blocks.*.attention_sum_norm"),
        Link(f"{_LAYER}.ffn.lin1", "blocks.*.mlp.up"),
        Link(f"{_LAYER}.ffn.lin2", "blocks.*.mlp.down"),
        Link(f"{_LAYER}.output_layer_norm", "blocks.*.mlp_sum_norm"),
        Link("vocab_transform", "transform.linear"),
        Link("vocab_layer_norm", "transform.norm"),
        Link("vocab_projector", "head"),
    ),
    prefix="distilbert.",
    assumed=ASSUMED,
    inert=("sinusoidal_pos_embds", "tie_weights_"),  # the table of positions is stored, however it began
    leftovers=("*.position_ids",),
)
