"""An encoder-only Transformer. Its batches say that all see all of their piece."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from thetahat.core.batch import Inputs
from thetahat.model.config import EncoderConfig
from thetahat.model.headed import Headed


@final
class Encoder(Headed):
    """Reads tokens, returns hidden states; `head` turns those into logits over the vocabulary, or over labels."""

    config: EncoderConfig

    def __init__(self, config: EncoderConfig, vocab_size: int, num_labels: int = 0) -> None:
        super().__init__(config, vocab_size, num_labels, is_causal=False)
        self.num_labels = num_labels

    def hidden(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        """What the head reads, one state a position."""
        return self.finished(self.states(self.embedding(inputs.tokens), inputs))
