"""A decoder-only Transformer."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from thetahat.core.batch import Inputs
from thetahat.model.attention.cache import Cache
from thetahat.model.config import DecoderConfig
from thetahat.model.headed import Headed


@final
class Decoder(Headed):
    """Reads tokens, returns hidden states; `head` turns hidden states into logits over the vocabulary."""

    config: DecoderConfig

    def __init__(self, config: DecoderConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size, is_causal=True)

    def hidden(self, inputs: Inputs, cache: Cache | None = None) -> Float[Tensor, "B T D"]:
        """What the head reads, one state a position."""
        return self.finished(self.states(self.embedding(inputs.tokens), inputs, cache=cache))
