"""What a factorization must know of a tokenizer, as tensors; the tokenizer itself needs no torch."""

import torch

from thetahat.core.batch import Symbols
from thetahat.data.tokens.tokenizer import Tokenizer


def symbols_of(tokenizer: Tokenizer) -> Symbols:
    """The symbols of its vocabulary."""
    return Symbols(
        vocab_size=tokenizer.vocab_size,
        frames=tokenizer.frames,
        is_special=torch.from_numpy(tokenizer.is_special),
        begins_word=torch.from_numpy(tokenizer.begins_word),
        special=tokenizer.named,
        unknown=tokenizer.roles.unk,
    )
