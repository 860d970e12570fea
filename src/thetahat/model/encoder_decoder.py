"""An encoder-decoder Transformer: an encoder reads the source at once, a decoder writes the target."""

from typing import cast, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import linear

from thetahat.core.batch import Inputs
from thetahat.model.attention import compile_mask, compile_visibility
from thetahat.model.block import Block
from thetahat.model.cache import Cache
from thetahat.model.config import EncoderDecoderConfig
from thetahat.model.cross import CrossBlock, Look
from thetahat.model.norm import RMSNorm
from thetahat.model.rope import rotation


@final
class EncoderDecoder(nn.Module):
    """Reads a source and the target so far; both share the embedding of tokens."""

    def __init__(self, config: EncoderDecoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(Block(config) for _ in range(config.num_encoder_layers))
        self.encoder_norm = RMSNorm(config.width, config.norm_epsilon)
        self.blocks = nn.ModuleList(CrossBlock(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        self.head = nn.Linear(config.width, vocab_size, bias=False)
        if config.ties_embeddings:
            self.head.weight = self.embedding.weight

    def hidden(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        """The decoder's states, one a position of the target."""
        if inputs.source is None:
            raise ValueError("an encoder-decoder reads a source: the factorization conditional or spans")
        return self.decode(inputs, self.look(self.encode(inputs.source.inputs), inputs.source.mask()))

    def encode(self, inputs: Inputs) -> Float[Tensor, "B S D"]:
        """The encoder's states, one a position of the source."""
        x = self.dropout(self.embedding(inputs.tokens))
        turn = rotation(inputs.position, self.config.head_width, self.config.rope_base, x.dtype)
        attend = compile_visibility(inputs.visibility)
        for block in self.encoder:
            x = block(x, turn, attend)
        return self.encoder_norm(x)

    def look(self, source: Float[Tensor, "B S D"], mask: Bool[Tensor, "B T S"]) -> list[Look]:
        """What each layer of the decoder sees of a source: made once, whatever is written."""
        attend = compile_mask(mask)
        blocks = [cast(CrossBlock, block) for block in self.blocks]
        return [Look(*block.cross.keys_and_values(source), attend) for block in blocks]

    def decode(self, inputs: Inputs, look: list[Look], cache: Cache | None = None) -> Float[Tensor, "B T D"]:
        """The decoder's states, given what its layers see of the source."""
        x = self.dropout(self.embedding(inputs.tokens))
        turn = rotation(inputs.position, self.config.head_width, self.config.rope_base, x.dtype)
        attend = compile_visibility(inputs.visibility)
        for layer, block in enumerate(self.blocks):
            x = block(x, turn, attend, look[layer], None if cache is None else cache.layers[layer])
        return self.norm(x)

    def logits(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Unnormalised log-probabilities of every token of the vocabulary."""
        return linear(hidden, self.head.weight)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.weight.device
