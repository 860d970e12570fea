"""An encoder-decoder Transformer: the encoder reads a source, the decoder continues a target and reads the source."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, cast, final

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from thetahat.core.batch import Inputs, Source
from thetahat.core.errors import ModelError
from thetahat.model.attention.cache import Cache
from thetahat.model.attention.cross_attention import Memory
from thetahat.model.attention.kernels import attend_under, compile_visibility
from thetahat.model.block import Block, CrossBlock
from thetahat.model.config import EncoderDecoderConfig
from thetahat.model.embedding import embedding_of
from thetahat.model.head import Head, Headed
from thetahat.model.law import TABLE, Law
from thetahat.model.norm import RMSNorm
from thetahat.model.precision import product_dtype
from thetahat.model.rope import rotation_of


class Reading(NamedTuple):
    """A source as the decoder's layers read it."""

    memories: list[Memory]  # one a layer
    is_seen: Bool[Tensor, "B T S"]  # which of it each position of the target sees; T may be 1: all see the same

    def select(self, rows: Int[Tensor, " B"]) -> "Reading":
        """These rows, in this order."""
        return Reading([memory.select(rows) for memory in self.memories], self.is_seen[rows])


@final
class EncoderDecoder(Headed):
    """Reads `inputs.source`, then the target's tokens, and returns the decoder's hidden states; `head` as in Decoder.

    Source and target share the embedding. The layers of the decoder read the encoder's states after its last norm.
    """

    laws: ClassVar[Mapping[str, Law]] = {"embedding.weight": TABLE}

    def __init__(self, config: EncoderDecoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.embedding = embedding_of(vocab_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder_blocks = nn.ModuleList(Block(config) for _ in range(config.num_encoder_layers))
        self.encoder_norm = RMSNorm(config.width, config.norm_epsilon)
        self.blocks = nn.ModuleList(CrossBlock(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        self.head = Head(config.width, vocab_size)
        if config.ties_embeddings:
            self.head.weight = self.embedding.weight

    def hidden(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        """The decoder's normalised residual stream after its last block, one state a position of the target."""
        if inputs.source is None:
            raise ModelError(
                "an encoder-decoder was given no source to read", allowed="batches whose inputs have a source"
            )
        return self.decode(inputs, self.read(inputs.source))

    def read(self, source: Source) -> Reading:
        """The source's keys and values in every layer of the decoder."""
        states = self.encode(source.inputs)
        memories = [cast(CrossBlock, block).cross_attention.remember(states) for block in self.blocks]
        return Reading(memories, source.mask())

    def encode(self, inputs: Inputs) -> Float[Tensor, "B S D"]:
        """The encoder's normalised residual stream after its last block, one state a position of the source."""
        x = self.dropout(self.embedding(inputs.tokens))
        rotation = rotation_of(inputs.position, self.config.head_width, self.config.rope_base, x.dtype)
        attend = compile_visibility(inputs.visibility, self.config.head_width, product_dtype(x))
        for block in self.encoder_blocks:
            x = block(x, rotation, attend)
        return self.encoder_norm(x)

    def decode(self, inputs: Inputs, reading: Reading, cache: Cache | None = None) -> Float[Tensor, "B T D"]:
        """The states of the target's positions, with the source read already."""
        x = self.dropout(self.embedding(inputs.tokens))
        rotation = rotation_of(inputs.position, self.config.head_width, self.config.rope_base, x.dtype)
        seen = None if cache is None else cache.seen
        attend = compile_visibility(inputs.visibility, self.config.head_width, product_dtype(x), seen)
        attend_source = attend_under(reading.is_seen)
        for layer, (block, memory) in enumerate(zip(self.blocks, reading.memories, strict=True)):
            x = block(x, rotation, attend, memory, attend_source, None if cache is None else cache.layers[layer])
        return self.norm(x)
