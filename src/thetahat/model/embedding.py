"""The table of token embeddings."""

import torch
from torch import nn


def embedding_of(vocab_size: int, width: int) -> nn.Embedding:
    """A table [V D] without values; `nn.Embedding` would draw some, on `meta` by importing torch's compiler."""
    return nn.Embedding(vocab_size, width, _weight=torch.empty(vocab_size, width))
