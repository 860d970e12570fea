"""BERT and what has its shape (MiniLM, E5, BGE): norms behind the sums, learned positions, a head with a transform."""

from thetahat.interop.families.gpt2 import UNROTATED
from thetahat.interop.families.llama import SIZES, head_width, num_heads
from thetahat.interop.family import ACTIVATIONS, Family
from thetahat.interop.fields import Fields, Fixed, Pair, Plain, Value
from thetahat.interop.names import Link
from thetahat.model.config import EncoderConfig


def _heads(fields: Fields) -> Plain:
    return {"num_kv_heads": num_heads(fields), "head_width": head_width(fields)}


HEADS = Pair(_heads)
SHAPE = Fixed(
    {
        "norm.kind": "layer",
        "placement": "post",
        "embedding.has_norm": True,
        "embedding.positions.kind": "learned",
        "attention.query_key_norm": "none",
        "attention.has_bias": True,
        "attention.has_output_bias": True,
        "mlp.is_gated": False,
        "mlp.has_bias": True,
    }
)
TIED = Value("tie_word_embeddings", "ties_embeddings", default=True)
TRANSFORM = Fixed({"head.transform": {}, "head.has_bias": True})
HEADLESS = Fixed({"ties_embeddings": True})
ASSUMED = {"position_embedding_type": "absolute"}
NUMBER = "embedding.positions.number"
POSITIONS = Value("max_position_embeddings", NUMBER)


def parts(positions: Pair | Value) -> tuple[Value | Fixed | Pair, ...]:
    """The fields of BERT and its kin."""
    return (
        *(*SIZES, HEADS, SHAPE, UNROTATED, TIED, positions),
        Value("layer_norm_eps", "norm_epsilon", default=1e-12),
        Value("hidden_act", "mlp.activation", default="gelu", choices=ACTIVATIONS),
        Value("type_vocab_size", "embedding.num_types", default=2),
    )


def links(prefix: str) -> tuple[Link, ...]:
    """The names of BERT and its kin, but for the head."""
    layer = f"{prefix}encoder.layer.*"
    return (
        Link(f"{prefix}embeddings.word_embeddings", "embedding"),
        Link(f"{prefix}embeddings.position_embeddings", "position_embedding"),
        Link(f"{prefix}embeddings.token_type_embeddings", "type_embedding"),
        Link(f"{prefix}embeddings.LayerNorm", "embedding_norm"),
        Link(f"{layer}.attention.self.query", "blocks.*.attention.query"),
        Link(f"{layer}.attention.self.key", "blocks.*.attention.key"),
        Link(f"{layer}.attention.self.value", "blocks.*.attention.value"),
        Link(f"{layer}.attention.output.dense", "blocks.*.attention.output"),
        Link(f"{layer}.attention.output.LayerNorm", "blocks.*.attention_sum_norm"),
        Link(f"{layer}.intermediate.dense", "blocks.*.mlp.up"),
        Link(f"{layer}.output.dense", "blocks.*.mlp.down"),
        Link(f"{layer}.output.LayerNorm", "blocks.*.mlp_sum_norm"),
    )


def head(linear: str, norm: str, weight: str, bias: str) -> tuple[Link, ...]:
    """The names of a head with a transform."""
    return (
        Link(linear, "transform.linear"),
        Link(norm, "transform.norm"),
        Link(weight, "head.weight"),
        Link(bias, "head.bias"),
    )


_HEAD = "cls.predictions"
BERT = Family(
    model_type="bert",
    kind=EncoderConfig,
    architecture="BertForMaskedLM",
    also=("BertForPreTraining",),
    bare="BertModel",
    parts=parts(POSITIONS),
    head_parts=(
        TRANSFORM,
        Value("hidden_act", "head.transform.activation", default="gelu", choices=ACTIVATIONS),
    ),
    bare_parts=(HEADLESS,),
    links=(
        *links("bert."),
        *head(f"{_HEAD}.transform.dense", f"{_HEAD}.transform.LayerNorm", f"{_HEAD}.decoder.weight", f"{_HEAD}.bias"),
    ),
    prefix="bert.",
    assumed=ASSUMED,
    inert=("directionality", "pooler_*"),
    leftovers=("*.position_ids", "*.token_type_ids"),
    passengers=("bert.pooler.*", "cls.seq_relationship.*"),
    copies={f"{_HEAD}.decoder.bias": f"{_HEAD}.bias"},
)
