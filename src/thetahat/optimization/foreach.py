"""One launch for a whole list of tensors: torch's multi-tensor operations, which it keeps underscored."""

from collections.abc import Sequence

import torch
from torch import Tensor

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false


def multiply_(tensors: Sequence[Tensor], factor: float | Tensor) -> None:
    """Multiplies each by one number; a tensor, so that the host need not wait for it."""
    torch._foreach_mul_(list(tensors), factor)


def lerp_(tensors: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> None:
    """Moves each towards its end by `weight` of the way."""
    torch._foreach_lerp_(list(tensors), list(ends), weight)


def lerp(tensors: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> Sequence[Tensor]:
    """New tensors, by `weight` of the way from each to its end."""
    return torch._foreach_lerp(list(tensors), list(ends), weight)


def norms(tensors: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """The 2-norm of each, summed in `dtype`."""
    return torch._foreach_norm(list(tensors), 2, dtype)
