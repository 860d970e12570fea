"""The shape of a whole model, of each of the three kinds."""

from math import gcd
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from thetahat.core.config import Config, differences, kind_of
from thetahat.core.errors import ConfigError
from thetahat.model.config.attention import AttentionConfig
from thetahat.model.config.ends import EmbeddingConfig, HeadConfig, ValueEmbeddingConfig
from thetahat.model.config.experts import ExpertsConfig
from thetahat.model.config.mixers import AttendingMixer, AttentionMixer, LatentMixer, Mixer, StateSpaceMixer
from thetahat.model.config.network import MLPConfig
from thetahat.model.config.norms import NormConfig, Placement, RMSNormConfig
from thetahat.model.config.positions import LearnedPositions, Rotary, rotated_width
from thetahat.model.config.residual import DeepNormConfig, ResidualConfig, SumConfig
from thetahat.model.config.values import Count, Positive


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
    behind; branch: behind, before the sum; parallel: as pre, with attention and network side by side; none: nowhere
    but behind the last block, to see what norms are for.
    """
    residual: ResidualConfig = SumConfig()
    """How what a block computes is added to the residual stream."""
    layers: Annotated[tuple[Mixer, ...], Meta(min_length=1)] = (AttentionMixer(),)
    """What mixes positions in each layer: a list that is repeated over the depth, whose tables are attentions where
    they say no kind; or kinds alone, 3x delta, 1x attention.
    """
    attention: AttentionConfig = AttentionConfig()
    """What the attentions of all layers have in common."""
    mlp: MLPConfig = MLPConfig()
    """The feed-forward network of all blocks."""
    experts: ExpertsConfig | None = None
    """A mixture of experts, each of them such a network, in its place; none: every layer has one network."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """What is done to the embeddings of tokens before the first block."""
    value_embeddings: ValueEmbeddingConfig | None = None
    """Tables of tokens that are added to the values of some attentions; none: there are none."""
    head: HeadConfig = HeadConfig()
    """How hidden states become logits."""
    skips_first_norm: bool = False
    """Whether the attention of the first layer reads the embeddings without a norm."""
    shares_layers: bool = False
    """Whether all layers have the parameters of one."""

    def __post_init__(self) -> None:
        if isinstance(self.residual, DeepNormConfig) and self.placement != "post":
            raise ConfigError(
                f"model.residual.kind=deepnorm with model.placement={self.placement}: its norms stand behind the sums",
                allowed="model.placement=post",
                cure="model.placement=post",
            )
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"model.num_kv_heads={self.num_kv_heads} does not divide model.num_heads={self.num_heads}",
                cure=f"model.num_kv_heads={self.num_heads}",
            )
        plain = [mixer for mixer in self.attentions if isinstance(mixer, AttentionMixer)]
        for rotary in (mixer.positions for mixer in plain if isinstance(mixer.positions, Rotary)):
            if (rotated := rotated_width(self.head_width, rotary)) % 2:
                share = "" if rotary.share == 1 else f", of which {rotary.share} are rotated: {rotated}"
                raise ConfigError(
                    f"model.head_width={self.head_width}{share} is odd, and rotary positions rotate pairs",
                    cure=f"model.head_width={self.head_width + 1}",
                )
        self._check_mixers()
        self._check_sharing(self.num_layers)
        if self.value_embeddings is not None:
            self._check_value_embeddings(self.value_embeddings)
        if self.experts is not None:
            self._check_experts(self.experts)

    def _check_experts(self, experts: ExpertsConfig) -> None:
        if self.mlp.has_bias:
            raise ConfigError("model.mlp.has_bias=true, and experts have no biases", cure="model.mlp.has_bias=false")
        if self.shares_layers and experts.num_dense:
            raise ConfigError(
                f"model.experts.num_dense={experts.num_dense}, and model.shares_layers=true makes all layers alike",
                cure="model.experts.num_dense=0",
            )
        if experts.num_dense >= self.num_layers:
            raise ConfigError(
                f"model.experts.num_dense={experts.num_dense} leaves none of {self.num_layers} layers experts",
                cure=f"model.experts.num_dense={self.num_layers - 1}, or model.experts=none",
            )

    def _check_sharing(self, num_layers: int) -> None:
        """Raises ConfigError if attentions of a stack of so many layers cannot share keys and values."""
        number = self.attention.sharing
        if number > 1 and self.shares_layers:
            raise ConfigError(
                f"model.attention.sharing={number}, and model.shares_layers=true: layers are one already",
                cure="model.attention.sharing=1",
            )
        for layer in self.attention_layers(num_layers):
            first = self.keys_of(layer)
            if self.mixer(layer) != self.mixer(first):
                raise ConfigError(
                    f"model.attention.sharing={number}: layer {layer} would read the keys and values of layer {first}, "
                    "which has other positions or sees otherwise",
                    allowed="groups of attentions that are alike in model.layers",
                    cure="model.attention.sharing=1, or model.layers in which each attention stands as often in a row",
                )

    def _check_value_embeddings(self, tables: ValueEmbeddingConfig) -> None:
        typed = f"model.value_embeddings.every={tables.every}"
        if self.shares_layers:
            raise ConfigError(
                f"{typed} gives layers tables of their own, and model.shares_layers=true makes all layers alike",
                cure="model.shares_layers=false, or model.value_embeddings=none",
            )
        if not self.attention_layers(self.num_layers):
            kinds = ", ".join(dict.fromkeys(map(kind_of, self.layers)))
            raise ConfigError(
                f"{typed}, and no layer has values that a table could be added to: model.layers has {kinds} alone",
                allowed="attention in some layers",
                cure="model.value_embeddings=none",
            )

    def _check_mixers(self) -> None:
        others = [mixer for mixer in self.layers if not isinstance(mixer, AttentionMixer)]
        if not others:
            return
        if self.attention.has_bias and any(isinstance(mixer, LatentMixer) for mixer in others):
            raise ConfigError(
                "model.attention.has_bias=true, and latent attention has no biases of queries, keys and values",
                cure="model.attention.has_bias=false",
            )
        other = next((mixer for mixer in self.layers if mixer != self.layers[0]), None)
        if self.shares_layers and other is not None:
            ours, theirs = kind_of(other), kind_of(self.layers[0])
            found = (
                f"{theirs} and {ours}"
                if ours != theirs
                else f"{ours} ({', '.join(differences(other, self.layers[0]))})"
            )
            raise ConfigError(
                f"model.shares_layers=true, and model.layers are not all alike: {found}",
                allowed="model.layers of one kind with one choice of its keys",
                cure="model.shares_layers=false",
            )
        inside = [mixer.expansion * self.width for mixer in others if isinstance(mixer, StateSpaceMixer)]
        if any(width % self.head_width for width in inside):
            raise ConfigError(
                f"model.head_width={self.head_width} does not divide the width of a state-space layer, {inside[0]}",
                cure=f"model.head_width={gcd(self.head_width, *inside)}",
            )

    def mixer(self, layer: int) -> Mixer:
        """What mixes positions in a layer, counted from 0."""
        return self.layers[layer % len(self.layers)]

    def experts_of(self, layer: int) -> ExpertsConfig | None:
        """The experts of a layer, counted from 0; None: it has one network."""
        return None if self.experts is None or layer < self.experts.num_dense else self.experts

    def attentions_of(self, num_layers: int) -> list[AttendingMixer]:
        """Those of the first so many layers that are attentions."""
        mixers = map(self.mixer, range(num_layers))
        return [mixer for mixer in mixers if isinstance(mixer, AttendingMixer)]

    def attention_layers(self, num_layers: int) -> list[int]:
        """Which of the first so many layers are attentions."""
        return [layer for layer in range(num_layers) if isinstance(self.mixer(layer), AttentionMixer)]

    def keys_of(self, layer: int) -> int:
        """The layer whose keys and values an attention reads: its own, or the first of those that share them."""
        layers = self.attention_layers(layer + 1)
        place = len(layers) - 1
        return layers[place - place % self.attention.sharing]

    def own_keys(self, num_layers: int) -> list[int]:
        """Which of the first so many layers are attentions with keys and values of their own."""
        return self.attention_layers(num_layers)[:: self.attention.sharing]

    @property
    def value_layers(self) -> list[int]:
        """The layers that add embeddings of tokens to their values: of an encoder-decoder, of its decoder."""
        tables = self.value_embeddings
        return [] if tables is None else self.own_keys(self.num_layers)[:: -tables.every][::-1]

    @property
    def attentions(self) -> tuple[AttendingMixer, ...]:
        """The kinds of layers that are attentions."""
        return tuple(mixer for mixer in self.layers if isinstance(mixer, AttendingMixer))

    def key_width(self, mixer: AttendingMixer) -> int:
        """Width of a key of a head."""
        return self.head_width + (mixer.rotary_width if isinstance(mixer, LatentMixer) else 0)

    @property
    def max_positions(self) -> int | None:
        """Positions that the model tells apart; None: any number."""
        positions = self.embedding.positions
        return positions.number if isinstance(positions, LearnedPositions) else None


class DecoderConfig(TransformerConfig, kw_only=True, tag="decoder", tag_field="kind"):
    """A decoder-only Transformer: each position reads those before it, and is asked for the next token."""

    num_future: Annotated[int, Meta(ge=0, le=16)] = 0
    """Tokens behind the next one that training asks each position for, too, each by a block of its own that reads the
    last layer (multi-token prediction). Scoring, generation and export leave these blocks out.
    """

    @property
    def of_future(self) -> "DecoderConfig":
        """The shape of the blocks for tokens behind the next one: as the last layer, with one network."""
        return replace(
            self,
            layers=(self.mixer(self.num_layers - 1),),
            attention=replace(self.attention, sharing=1),
            value_embeddings=None,
            experts=None,
            num_future=0,
            skips_first_norm=False,
            shares_layers=False,
        )


class EncoderConfig(TransformerConfig, kw_only=True, tag="encoder", tag_field="kind"):
    """An encoder-only Transformer: each position reads all of its text, and is asked what it stands for."""

    def __post_init__(self) -> None:
        TransformerConfig.__post_init__(self)
        _check_both_ways(self, "encoder")


class EncoderDecoderConfig(TransformerConfig, kw_only=True, tag="encoder-decoder", tag_field="kind"):
    """A Transformer that reads a source with an encoder, and continues a target with a decoder of `num_layers`."""

    num_encoder_layers: Count = 4
    """Layers of the encoder, which have the shape of the decoder's."""

    def __post_init__(self) -> None:
        TransformerConfig.__post_init__(self)
        self._check_sharing(self.num_encoder_layers)
        _check_both_ways(self, "encoder-decoder")


def _check_both_ways(config: TransformerConfig, kind: str) -> None:
    """An encoder reads both ways, a recurrent layer one."""
    for mixer in config.layers:
        if not isinstance(mixer, AttendingMixer):
            raise ConfigError(
                f"model.layers has {kind_of(mixer)!r} in model.kind={kind}: it reads from left to right alone",
                allowed="attention",
                cure="model.layers=attention or model.kind=decoder",
            )


ModelConfig = DecoderConfig | EncoderConfig | EncoderDecoderConfig
