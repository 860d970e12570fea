"""An encoder-decoder Transformer: the encoder reads a source, the decoder continues a target and reads the source."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from thetahat.core.batch import Inputs, Source
from thetahat.core.errors import ModelError
from thetahat.model.attention.attention import Memory
from thetahat.model.attention.cache import Cache
from thetahat.model.config import EncoderDecoderConfig
from thetahat.model.headed import Headed
from thetahat.model.stack import Reading, Stack


@final
class EncoderDecoder(Headed):
    """Reads `inputs.source`, then the target's tokens, and returns the decoder's hidden states; `head` as in Decoder.

    Source and target share the table of tokens. The layers of the decoder read the encoder's states after its last
    norm.
    """

    config: EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig, vocab_size: int) -> None:
        encoder = Stack(config, config.num_encoder_layers, is_causal=False)
        super().__init__(config, vocab_size, is_causal=True, encoder=encoder)

    def hidden(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        """What the head reads, one state a position of the target."""
        if inputs.source is None:
            raise ModelError(
                "an encoder-decoder was given no source to read", allowed="batches whose inputs have a source"
            )
        return self.decode(inputs, self.read(inputs.source))

    def read(self, source: Source) -> Reading:
        """The source's keys and values in every layer of the decoder."""
        states = self.encode(source.inputs)
        memories, row = (
            [self.block(layer).remember(states) for layer in range(self.num_layers)],
            source.inputs.visibility.whole,
        )
        if row is not None:  # other processes have read the rest
            memories = [Memory(*map(row.gathered, memory)) for memory in memories]
        return Reading(memories, source.mask())

    def encode(self, inputs: Inputs) -> Float[Tensor, "B S D"]:
        """The encoder's normalised residual stream after its last block, one state a position of the source."""
        return self.encoder.states(self.embedding(inputs.tokens), inputs)

    def decode(self, inputs: Inputs, reading: Reading, cache: Cache | None = None) -> Float[Tensor, "B T D"]:
        """The states of the target's positions, with the source read already."""
        return self.finished(self.states(self.embedding(inputs.tokens), inputs, reading, cache))
