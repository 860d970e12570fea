"""ELECTRA's generator, a masked language model: BERT whose embeddings may be narrower than the rest."""

from dataclasses import replace

from thetahat.interop.families.bert import BERT, POSITIONS, TRANSFORM, head, links, parts
from thetahat.interop.fields import Fields, Fixed, Pair, Plain
from thetahat.interop.names import Link
from thetahat.model.config import ModelConfig


def _width(fields: Fields) -> Plain:
    width = fields.get("embedding_size", 128)
    return {"embedding.width": None if width == fields.number("hidden_size") else width}


def _written(config: ModelConfig) -> Plain:
    return {"embedding_size": config.embedding.width or config.width}


ELECTRA = replace(
    BERT,
    model_type="electra",
    architecture="ElectraForMaskedLM",
    also=(),
    bare="ElectraModel",
    parts=(*parts(POSITIONS), Pair(_width, _written)),
    head_parts=(TRANSFORM, Fixed({"head.transform.activation": "gelu"})),
    links=(
        *links("electra."),
        Link("electra.embeddings_project", "widen"),
        *head(
            "generator_predictions.dense",
            "generator_predictions.LayerNorm",
            "generator_lm_head.weight",
            "generator_lm_head.bias",
        ),
    ),
    prefix="electra.",
    passengers=("discriminator_predictions.*",),
    copies={},
)
