"""RoBERTa and XLM-RoBERTa: BERT whose positions begin behind the padding's."""

from dataclasses import replace

from thetahat.interop.families.bert import BERT, TRANSFORM, head, links, parts
from thetahat.interop.fields import Fields, Fixed, Pair, Plain, refused, value_at
from thetahat.model.config import ModelConfig


def _positions(fields: Fields) -> Plain:
    padding = fields.get("pad_token_id", 1)
    if not isinstance(padding, int) or padding < 0:
        raise refused("pad_token_id", padding, "the id of a token")
    offset = padding + 1
    number = fields.number("max_position_embeddings") - offset
    return {"embedding.positions.number": number, "embedding.positions.offset": offset}


def _written(config: ModelConfig) -> Plain:
    offset = value_at(config, "embedding.positions.offset")
    number = value_at(config, "embedding.positions.number")
    return {"max_position_embeddings": number + offset, "pad_token_id": offset - 1}


ROBERTA = replace(
    BERT,
    model_type="roberta",
    architecture="RobertaForMaskedLM",
    also=(),
    bare="RobertaModel",
    parts=parts(Pair(_positions, _written)),
    head_parts=(TRANSFORM, Fixed({"head.transform.activation": "gelu"})),
    links=(
        *links("roberta."),
        *head("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder.weight", "lm_head.bias"),
    ),
    prefix="roberta.",
    passengers=("roberta.pooler.*",),
    copies={"lm_head.decoder.bias": "lm_head.bias"},
    doubles=("lm_head.decoder.bias",),
)
XLM_ROBERTA = replace(ROBERTA, model_type="xlm-roberta", architecture="XLMRobertaForMaskedLM", bare="XLMRobertaModel")
