"""Tables whose rows are looked up."""

import torch
from torch import nn


def table(num_rows: int, width: int) -> nn.Embedding:
    """A table without values; `nn.Embedding` would draw some, on `meta` by importing torch's compiler."""
    return nn.Embedding(num_rows, width, _weight=torch.empty(num_rows, width))
