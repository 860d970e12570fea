"""The shape of a model: one Block, composed of small choices. The defaults are Qwen3's shape.

Pre-norm, rotary positions, grouped queries, QK-norm, SwiGLU. Every choice has a default that is this shape, so a config
that says nothing of a choice means what it always meant.
"""

from typing import Annotated, Literal

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
Dtype = Literal["float32", "bfloat16", "float64"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
Placement = Literal["pre", "post", "sandwich", "branch", "parallel"]


class RMSNormConfig(Config, kw_only=True, tag="rms", tag_field="kind"):
    """Root-mean-square normalisation with a gain."""

    adds_one: bool = False  # the gain is kept as its distance from 1, as Gemma does


class LayerNormConfig(Config, kw_only=True, tag="layer", tag_field="kind"):
    """Normalisation by mean and variance, with a gain."""

    has_bias: bool = True


NormConfig = RMSNormConfig | LayerNormConfig


class LinearScaling(Config, kw_only=True, tag="linear", tag_field="kind"):
    """All rotary frequencies divided by `factor` (Chen et al., 2023, arXiv 2306.15595)."""

    factor: Positive


class Llama3Scaling(Config, kw_only=True, tag="llama3", tag_field="kind"):
    """Low frequencies divided by `factor`, high ones kept, a ramp between them (Llama 3, arXiv 2407.21783)."""

    factor: Positive
    low_frequency_factor: Positive  # wavelengths above context / this are low
    high_frequency_factor: Positive  # wavelengths below context / this are high
    context: Count  # that the frequencies were first trained for


class YarnScaling(Config, kw_only=True, tag="yarn", tag_field="kind"):
    """The same ramp over the rotations made in the context, and larger scores (YaRN, Peng et al., arXiv 2309.00071)."""

    factor: Positive
    context: Count  # that the frequencies were first trained for
    beta_fast: Positive = 32.0  # rotations from which a frequency is kept
    beta_slow: Positive = 1.0  # rotations up to which it is divided
    attention_factor: Positive | None = None  # what cosines and sines are multiplied by; None: 0.1 ln(factor) + 1
    truncates: bool = True  # the ends of the ramp to whole dimensions


RotaryScaling = LinearScaling | Llama3Scaling | YarnScaling


class Rotary(Config, kw_only=True, tag="rotary", tag_field="kind"):
    """Queries and keys are rotated by their positions."""

    base: Annotated[float, Meta(gt=1)] | None = None  # None: model.rope_base
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0  # of the head width that is rotated, from its beginning
    scaling: RotaryScaling | None = None


class Unrotated(Config, kw_only=True, tag="none", tag_field="kind"):
    """Queries and keys are read as they are: positions come from elsewhere, or from nowhere."""


class AttentionMixer(Config, kw_only=True, tag="attention", tag_field="kind"):
    """How the attention of a layer tells positions, and how far it sees."""

    positions: Rotary | Unrotated = Rotary()
    distance: Count | None = None  # the farthest position seen, in positions; None: all


Mixer = AttentionMixer
"""What mixes positions in one layer; other kinds than attention become further variants."""


class RelativeConfig(Config, kw_only=True):
    """A learned number for each head and bucket of distances, added to the scores (T5, arXiv 1910.10683)."""

    num_buckets: Annotated[int, Meta(ge=4)] = 32
    max_distance: Count = 128  # beyond, all distances share the last bucket


class AttentionConfig(Config, kw_only=True):
    """What the attentions of all layers have in common."""

    query_key_norm: Literal["head", "joined", "none"] = "head"  # over the width of a head, or of all heads together
    has_bias: bool = False  # of queries, keys and values
    has_output_bias: bool = False
    scale: Positive | None = None  # of the scores; None: 1 / sqrt(head_width)
    cap: Positive | None = None  # c of c tanh(score / c); None: no soft cap
    relative: RelativeConfig | None = None  # one table a stack, shared by its layers


class MLPConfig(Config, kw_only=True):
    """The feed-forward network: down(activation(gate x) * up x), or down(activation(up x))."""

    is_gated: bool = True
    activation: Activation = "silu"
    has_bias: bool = False


class LearnedPositions(Config, kw_only=True, tag="learned", tag_field="kind"):
    """A table of positions, added to the embeddings; position p has row p + offset of number + offset."""

    number: Count  # of positions that there are
    offset: Annotated[int, Meta(ge=0)] = 0


class SinusoidalPositions(Config, kw_only=True, tag="sinusoidal", tag_field="kind"):
    """Sines, then cosines, of positions, added to the embeddings (Vaswani et al., arXiv 1706.03762)."""


class EmbeddingConfig(Config, kw_only=True):
    """What is done to the embeddings of tokens before the first block."""

    positions: LearnedPositions | SinusoidalPositions | None = None
    num_types: Annotated[int, Meta(ge=0)] = 0  # rows of a table of segments, of which all tokens have the first
    scale: Positive = 1.0  # embeddings are multiplied by
    has_norm: bool = False
    width: Count | None = None  # narrower than the model, then projected; None: the model's


class TransformConfig(Config, kw_only=True):
    """A dense layer between the last block and the head: norm(activation(dense h))."""

    activation: Activation = "gelu"
    has_bias: bool = True
    has_norm: bool = True


class HeadConfig(Config, kw_only=True):
    """How hidden states become logits."""

    transform: TransformConfig | None = None
    has_bias: bool = False
    scale: Positive = 1.0  # hidden states are multiplied by
    cap: Positive | None = None  # c of c tanh(logit / c); None: no soft cap


class TransformerConfig(Config, kw_only=True):
    """What all families have in common. The vocabulary is the tokenizer's, so it is not repeated here."""

    num_layers: Count = 4  # L
    width: Count = 160  # D
    num_heads: Count = 5  # H
    num_kv_heads: Count = 5  # G
    head_width: Count = 32  # K
    inner_width: Count = 448  # F
    rope_base: Annotated[float, Meta(gt=1)] = 10_000.0
    norm_epsilon: Positive = 1e-6
    ties_embeddings: bool = False
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    norm: NormConfig = RMSNormConfig()
    placement: Placement = "pre"  # where the norms of a block stand
    layers: Annotated[tuple[Mixer, ...], Meta(min_length=1)] = (AttentionMixer(),)  # repeated over the depth
    attention: AttentionConfig = AttentionConfig()
    mlp: MLPConfig = MLPConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    head: HeadConfig = HeadConfig()
    skips_first_norm: bool = False  # the first layer's attention reads the embeddings without a norm
    shares_layers: bool = False  # all layers have the parameters of one

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"model.num_kv_heads={self.num_kv_heads} does not divide model.num_heads={self.num_heads}",
                cure=f"model.num_kv_heads={self.num_heads}",
            )
        for rotary in (mixer.positions for mixer in self.layers if isinstance(mixer.positions, Rotary)):
            if (rotated := rotated_width(self.head_width, rotary)) % 2:
                share = "" if rotary.share == 1 else f", of which {rotary.share} are rotated: {rotated}"
                raise ConfigError(
                    f"model.head_width={self.head_width}{share} is odd, and rotary positions rotate pairs",
                    cure=f"model.head_width={self.head_width + 1}",
                )

    def mixer(self, layer: int) -> Mixer:
        """What mixes positions in a layer, counted from 0."""
        return self.layers[layer % len(self.layers)]

    @property
    def max_positions(self) -> int | None:
        """Positions that the model tells apart; None: any number."""
        positions = self.embedding.positions
        return positions.number if isinstance(positions, LearnedPositions) else None


def rotated_width(head_width: int, rotary: Rotary) -> int:
    """How many of a head's dimensions are rotated."""
    return int(head_width * rotary.share)


class DecoderConfig(TransformerConfig, kw_only=True, tag="decoder", tag_field="kind"):
    """A decoder-only Transformer: each position reads those before it, and is asked for the next token."""


class EncoderConfig(TransformerConfig, kw_only=True, tag="encoder", tag_field="kind"):
    """An encoder-only Transformer: each position reads all of its text, and is asked what it stands for."""


class EncoderDecoderConfig(TransformerConfig, kw_only=True, tag="encoder-decoder", tag_field="kind"):
    """A Transformer that reads a source with an encoder, and continues a target with a decoder of `num_layers`."""

    num_encoder_layers: Count = 4  # L of the encoder, whose layers have the shape of the decoder's


ModelConfig = DecoderConfig | EncoderConfig | EncoderDecoderConfig
