"""A decoder-only Transformer."""

from typing import cast, final

from jaxtyping import Float
from torch import Tensor, nn

from thetahat.core.batch import Inputs
from thetahat.model.attention.cache import Cache
from thetahat.model.block import Block
from thetahat.model.config import DecoderConfig
from thetahat.model.headed import Headed


@final
class Decoder(Headed):
    """Reads tokens, returns hidden states; `head` turns hidden states into logits over the vocabulary.

    Each block of `future` reads the states behind the last layer, to predict one token behind the next one. It is there
    for training alone: `hidden` does not read it (Gloeckle et al., Better & Faster Large Language Models via
    Multi-token Prediction, 2024, arXiv 2404.19737, section 2: parallel heads of one layer each, one unembedding).
    """

    config: DecoderConfig

    def __init__(self, config: DecoderConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size, is_causal=True)
        self.future = nn.ModuleList(Block(config.of_future) for _ in range(config.num_future))

    def hidden(self, inputs: Inputs, cache: Cache | None = None) -> Float[Tensor, "B T D"]:
        """What the head reads, one state a position."""
        return self.finished(self.states(self.embedding(inputs.tokens), inputs, cache=cache))

    def hidden_ahead(self, inputs: Inputs) -> tuple[Float[Tensor, "B T D"], ...]:
        """What the head reads for the next token, as of `hidden`, and for the second, third, ... one ahead."""
        x = self.through(range(self.num_layers), self.begin(self.embedding(inputs.tokens), inputs), inputs)
        way = self._ways(inputs, x, None)[self.config.mixer(self.num_layers - 1)]
        each = [x, *(cast(Block, block)(x, way) for block in self.future)]
        return tuple(self.finished(self.norm(one)) for one in each)
