"""A decoder-only Transformer: embedding, blocks, norm, head."""

from collections.abc import Mapping
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn

from thetahat.core.batch import Inputs
from thetahat.model.attention.cache import Cache
from thetahat.model.attention.kernels import compile_visibility
from thetahat.model.block import Block
from thetahat.model.config import DecoderConfig
from thetahat.model.embedding import embedding_of
from thetahat.model.head import Head, Headed
from thetahat.model.law import TABLE, Law
from thetahat.model.norm import RMSNorm
from thetahat.model.precision import product_dtype
from thetahat.model.rope import rotation_of


@final
class Decoder(Headed):
    """Reads tokens, returns hidden states; `head` turns hidden states into logits over the vocabulary.

    The two are apart because the objective decides for which positions, and in which portions, logits exist at all.
    """

    laws: ClassVar[Mapping[str, Law]] = {"embedding.weight": TABLE}

    def __init__(self, config: DecoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.embedding = embedding_of(vocab_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        self.head = Head(config.width, vocab_size)
        if config.ties_embeddings:
            self.head.weight = self.embedding.weight

    def hidden(self, inputs: Inputs, cache: Cache | None = None) -> Float[Tensor, "B T D"]:
        """The normalised residual stream after the last block, one state a position."""
        x = self.dropout(self.embedding(inputs.tokens))
        rotation = rotation_of(inputs.position, self.config.head_width, self.config.rope_base, x.dtype)
        seen = None if cache is None else cache.seen
        attend = compile_visibility(inputs.visibility, self.config.head_width, product_dtype(x), seen)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, attend, None if cache is None else cache.layers[layer])
        return self.norm(x)
