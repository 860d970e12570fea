"""Granite 3: Llama's shape, in which embeddings, scores, branches and logits are multiplied by numbers."""

from dataclasses import replace

from thetahat.interop.families.llama import BIASES, LLAMA, PLAIN, SHAPE
from thetahat.interop.fields import Fields, Fixed, Pair, Plain, Value, inverse
from thetahat.interop.layers import Layers
from thetahat.model.config import ModelConfig


def _read_divisor(fields: Fields) -> Plain:
    return {"head.scale": 1 / fields.get("logits_scaling", 1.0)}


def _write_divisor(config: ModelConfig) -> Plain:
    return {"logits_scaling": inverse(config.head.scale)}


GRANITE = replace(
    LLAMA,
    model_type="granite",
    architecture="GraniteForCausalLM",
    parts=(
        *(*SHAPE, PLAIN, BIASES, Layers()),
        Value("mlp_bias", "mlp.has_bias", default=False),
        Fixed({"residual.kind": "sum"}),
        Value("embedding_multiplier", "embedding.scale", default=1.0),
        Value("residual_multiplier", "residual.scale", default=1.0),
        Value("attention_multiplier", "attention.scale", default=1.0),
        Pair(_read_divisor, _write_divisor),
    ),
    assumed={},
    inert=(),
)
