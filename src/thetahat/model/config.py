"""The shape of a Transformer. The defaults are Qwen3's: pre-norm, rotary, grouped queries, QK-norm, SwiGLU."""

from typing import Annotated

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError

Count = Annotated[int, Meta(ge=1)]


class BlockConfig(Config, kw_only=True):
    """What the three families share. The vocabulary is the tokenizer's, so it is not repeated here."""

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
                f"model.head_width={self.head_width} is odd, and rotary positions turn pairs",
                cure=f"model.head_width={self.head_width + 1}",
            )


class DecoderConfig(BlockConfig, kw_only=True, tag="decoder", tag_field="kind"):
    """A decoder-only Transformer: each position sees those before it."""


class EncoderConfig(BlockConfig, kw_only=True, tag="encoder", tag_field="kind"):
    """An encoder-only Transformer: each position sees all of its sequence."""


class EncoderDecoderConfig(BlockConfig, kw_only=True, tag="encoder-decoder", tag_field="kind"):
    """An encoder, and a decoder of `num_layers` whose every layer also sees what the encoder made of the source."""

    num_encoder_layers: Count = 4


ModelConfig = DecoderConfig | EncoderConfig | EncoderDecoderConfig
