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

    adds_one: bool = False
    """Whether the gain is kept as its distance from 1, as Gemma does."""


class LayerNormConfig(Config, kw_only=True, tag="layer", tag_field="kind"):
    """Normalisation by mean and variance, with a gain."""

    has_bias: bool = True
    """Whether a bias is added after the gain."""


NormConfig = RMSNormConfig | LayerNormConfig


class LinearScaling(Config, kw_only=True, tag="linear", tag_field="kind"):
    """All rotary frequencies divided by `factor` (Chen et al., 2023, arXiv 2306.15595)."""

    factor: Positive
    """What all frequencies are divided by."""


class Llama3Scaling(Config, kw_only=True, tag="llama3", tag_field="kind"):
    """Low frequencies divided by `factor`, high ones kept, a ramp between them (Llama 3, arXiv 2407.21783)."""

    factor: Positive
    """What low frequencies are divided by."""
    low_frequency_factor: Positive
    """Wavelengths above context / this are low."""
    high_frequency_factor: Positive
    """Wavelengths below context / this are high."""
    context: Count
    """The context length that the frequencies were first trained for."""


class YarnScaling(Config, kw_only=True, tag="yarn", tag_field="kind"):
    """The same ramp over the rotations made in the context, and larger scores (YaRN, Peng et al., arXiv 2309.00071)."""

    factor: Positive
    """What low frequencies are divided by."""
    context: Count
    """The context length that the frequencies were first trained for."""
    beta_fast: Positive = 32.0
    """Rotations within the context from which on a frequency is kept."""
    beta_slow: Positive = 1.0
    """Rotations within the context up to which a frequency is divided."""
    attention_factor: Positive | None = None
    """What cosines and sines are multiplied by; none: 0.1 ln(factor) + 1."""
    truncates: bool = True
    """Whether the ends of the ramp are rounded to whole dimensions."""


RotaryScaling = LinearScaling | Llama3Scaling | YarnScaling


class Rotary(Config, kw_only=True, tag="rotary", tag_field="kind"):
    """Queries and keys are rotated by their positions."""

    base: Annotated[float, Meta(gt=1)] | None = None
    """The base of the rotary frequencies of this layer; none: model.rope_base."""
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """The share of the head width that is rotated, from its beginning."""
    scaling: RotaryScaling | None = None
    """How frequencies are changed for contexts longer than that of the first training; none: not at all."""


class Unrotated(Config, kw_only=True, tag="none", tag_field="kind"):
    """Queries and keys are read as they are: positions come from elsewhere, or from nowhere."""


class AttentionMixer(Config, kw_only=True, tag="attention", tag_field="kind"):
    """How the attention of a layer tells positions, and how far it sees."""

    positions: Rotary | Unrotated = Rotary()
    """How queries and keys tell positions."""
    distance: Count | None = None
    """The farthest position that is seen (a sliding window), in positions; none: all are seen."""


Mixer = AttentionMixer
"""What mixes positions in one layer; other kinds than attention become further variants."""


class RelativeConfig(Config, kw_only=True):
    """A learned number for each head and bucket of distances, added to the scores (T5, arXiv 1910.10683)."""

    num_buckets: Annotated[int, Meta(ge=4)] = 32
    """Buckets of distances, each with a learned number for every head."""
    max_distance: Count = 128
    """The distance beyond which all share the last bucket, in positions."""


class AttentionConfig(Config, kw_only=True):
    """What the attentions of all layers have in common."""

    query_key_norm: Literal["head", "joined", "none"] = "head"
    """Whether queries and keys are normalised over the width of each head, over all heads joined, or not."""
    has_bias: bool = False
    """Whether queries, keys and values have a bias."""
    has_output_bias: bool = False
    """Whether the output projection has a bias."""
    scale: Positive | None = None
    """What scores are multiplied by; none: 1 / sqrt(head_width)."""
    cap: Positive | None = None
    """The soft cap c of scores, c tanh(score / c); none: no cap."""
    relative: RelativeConfig | None = None
    """Learned numbers for distances that are added to the scores, in one table that all layers share; none: there
    are none.
    """


class MLPConfig(Config, kw_only=True):
    """The feed-forward network: down(activation(gate x) * up x), or down(activation(up x))."""

    is_gated: bool = True
    """Whether the network is gated (SwiGLU, GeGLU): down(activation(gate x) * up x)."""
    activation: Activation = "silu"
    """The activation function."""
    has_bias: bool = False
    """Whether its linear maps have biases."""


class LearnedPositions(Config, kw_only=True, tag="learned", tag_field="kind"):
    """A table of positions, added to the embeddings; position p has row p + offset of number + offset."""

    number: Count
    """How many positions there are."""
    offset: Annotated[int, Meta(ge=0)] = 0
    """Rows of the table that stand before the first position."""


class SinusoidalPositions(Config, kw_only=True, tag="sinusoidal", tag_field="kind"):
    """Sines, then cosines, of positions, added to the embeddings (Vaswani et al., arXiv 1706.03762)."""


class EmbeddingConfig(Config, kw_only=True):
    """What is done to the embeddings of tokens before the first block."""

    positions: LearnedPositions | SinusoidalPositions | None = None
    """What is added to the embeddings to tell positions; none: nothing is."""
    num_types: Annotated[int, Meta(ge=0)] = 0
    """Rows of a table of segments (BERT's token types), of which all tokens have the first; 0: there is no table."""
    scale: Positive = 1.0
    """What embeddings are multiplied by."""
    has_norm: bool = False
    """Whether the sum of embeddings is normalised before the first block."""
    width: Count | None = None
    """Width of the table of tokens where it is narrower than the model and then projected; none: the model's."""


class TransformConfig(Config, kw_only=True):
    """A dense layer between the last block and the head: norm(activation(dense h))."""

    activation: Activation = "gelu"
    """The activation function."""
    has_bias: bool = True
    """Whether the dense layer has a bias."""
    has_norm: bool = True
    """Whether its output is normalised."""


class HeadConfig(Config, kw_only=True):
    """How hidden states become logits."""

    transform: TransformConfig | None = None
    """A dense layer between the last block and the head; none: there is none."""
    has_bias: bool = False
    """Whether each token of the vocabulary has a bias."""
    scale: Positive = 1.0
    """What hidden states are multiplied by before the head."""
    cap: Positive | None = None
    """The soft cap c of logits, c tanh(logit / c); none: no cap."""


class TransformerConfig(Config, kw_only=True):
    """What all families have in common. The vocabulary is the tokenizer's, so it is not repeated here."""

    num_layers: Count = 4
    """L: blocks of the model; of an encoder-decoder, of its decoder."""
    width: Count = 160
    """D: width of the residual stream."""
    num_heads: Count = 5
    """H: heads of the queries."""
    num_kv_heads: Count = 5
    """G: heads of the keys and values, each shared by H / G heads of the queries."""
    head_width: Count = 32
    """K: width of a head."""
    inner_width: Count = 448
    """F: inner width of the feed-forward network."""
    rope_base: Annotated[float, Meta(gt=1)] = 10_000.0
    """The base of the rotary frequencies, for layers that name none of their own."""
    norm_epsilon: Positive = 1e-6
    """What is added to the mean square, or to the variance, of a normalisation."""
    ties_embeddings: bool = False
    """Whether the head has the weights of the table of tokens."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """The share of values that are set to 0 in training, after embeddings and in each block."""
    norm: NormConfig = RMSNormConfig()
    """The normalisation of all blocks."""
    placement: Placement = "pre"
    """Where the norms of a block stand. pre: before attention and network; post: behind each sum; sandwich: before and
    behind; branch: behind, before the sum; parallel: as pre, with attention and network side by side.
    """
    layers: Annotated[tuple[Mixer, ...], Meta(min_length=1)] = (AttentionMixer(),)
    """What mixes positions in each layer: a list that is repeated over the depth."""
    attention: AttentionConfig = AttentionConfig()
    """What the attentions of all layers have in common."""
    mlp: MLPConfig = MLPConfig()
    """The feed-forward network of all blocks."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """What is done to the embeddings of tokens before the first block."""
    head: HeadConfig = HeadConfig()
    """How hidden states become logits."""
    skips_first_norm: bool = False
    """Whether the attention of the first layer reads the embeddings without a norm."""
    shares_layers: bool = False
    """Whether all layers have the parameters of one."""

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

    num_encoder_layers: Count = 4
    """Layers of the encoder, which have the shape of the decoder's."""


ModelConfig = DecoderConfig | EncoderConfig | EncoderDecoderConfig
