"""An encoder-only Transformer: embedding, blocks, norm, head. Its batches say that all see all of their piece."""

from collections.abc import Mapping
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn

from thetahat.core.batch import Inputs
from thetahat.model.attention.kernels import compile_visibility
from thetahat.model.block import Block
from thetahat.model.config import EncoderConfig
from thetahat.model.embedding import embedding_of
from thetahat.model.head import Head, Headed
from thetahat.model.law import TABLE, Law
from thetahat.model.norm import RMSNorm
from thetahat.model.precision import product_dtype
from thetahat.model.rope import rotation_of


@final
class Encoder(Headed):
    """Reads tokens, returns hidden states; `head` turns those into logits over the vocabulary, or over labels.

    With `num_labels` the head is a matrix of its own, [num_labels, D], tied to nothing.
    """

    laws: ClassVar[Mapping[str, Law]] = {"embedding.weight": TABLE}

    def __init__(self, config: EncoderConfig, vocab_size: int, num_labels: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.num_labels = num_labels
        self.embedding = embedding_of(vocab_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        self.head = Head(config.width, num_labels or vocab_size)
        if config.ties_embeddings and not num_labels:
            self.head.weight = self.embedding.weight

    def hidden(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        """The normalised residual stream after the last block, one state a position."""
        x = self.dropout(self.embedding(inputs.tokens))
        rotation = rotation_of(inputs.position, self.config.head_width, self.config.rope_base, x.dtype)
        attend = compile_visibility(inputs.visibility, self.config.head_width, product_dtype(x))
        for block in self.blocks:
            x = block(x, rotation, attend)
        return self.norm(x)
