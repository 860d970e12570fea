"""The shape of a model. The defaults are Qwen3's: pre-norm, rotary, grouped queries, QK-norm, SwiGLU."""

from typing import Annotated

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError

Count = Annotated[int, Meta(ge=1)]


class TransformerConfig(Config, kw_only=True):
    """What all families have in common. The vocabulary is the tokenizer's, so it is not repeated here."""

    num_layers: Count = 4  # L
    width: Count = 160  # D
    num_heads: Count = 5  # H
    num_kv_heads: Count = 5  # G
    head_width: Count = 32  # K
    inner_width: Count = 448  # F
    rope_base: Annotated[float, Meta(gt=1)] = 10_000.0
    norm_epsilon: Annotated[float, Meta(gt=0)] = 1e-6
    ties_embeddings: bool = False
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"model.num_kv_heads={self.num_kv_heads} does not divide model.num_heads={self.num_heads}",
                cure=f"model.num_kv_heads={self.num_heads}",
            )
        if self.head_width % 2:
            raise ConfigError(
                f"model.head_width={self.head_width} is odd, and rotary positions rotate pairs",
                cure=f"model.head_width={self.head_width + 1}",
            )


class DecoderConfig(TransformerConfig, kw_only=True, tag="decoder", tag_field="kind"):
    """A decoder-only Transformer: each position reads those before it, and is asked for the next token."""


class EncoderConfig(TransformerConfig, kw_only=True, tag="encoder", tag_field="kind"):
    """An encoder-only Transformer: each position reads all of its text, and is asked what it stands for."""


class EncoderDecoderConfig(TransformerConfig, kw_only=True, tag="encoder-decoder", tag_field="kind"):
    """A Transformer that reads a source with an encoder, and continues a target with a decoder of `num_layers`."""

    num_encoder_layers: Count = 4  # L of the encoder, whose layers have the shape of the decoder's


ModelConfig = DecoderConfig | EncoderConfig | EncoderDecoderConfig
