"""torch's operations on lists of tensors, one launch for a whole list; torch's own names begin with an underscore."""

from collections.abc import Sequence

import torch
from torch import Tensor

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false


def multiply_(tensors: Sequence[Tensor], factor: float | Tensor) -> None:
    """Multiplies each by one number; if that is a tensor, the host does not wait for it."""
    torch._foreach_mul_(list(tensors), factor)


def lerp_(tensors: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> None:
    """Moves each towards its end by the fraction `weight` of the way, in place."""
    torch._foreach_lerp_(list(tensors), list(ends), weight)


def lerp(tensors: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> Sequence[Tensor]:
    """New tensors, the fraction `weight` of the way from each to its end."""
    return torch._foreach_lerp(list(tensors), list(ends), weight)


def norms(tensors: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """The 2-norm of each, summed in `dtype`."""
    return torch._foreach_norm(list(tensors), 2, dtype)
