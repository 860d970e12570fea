"""The dtype of the arithmetic."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from thetahat.model.config import Dtype


def parameter_dtype(dtype: Dtype) -> torch.dtype:
    """What parameters, gradients and optimizer state are kept in: float64 for float64, else float32."""
    return torch.float64 if dtype == "float64" else torch.float32


def computing_in(dtype: Dtype, device: torch.device) -> AbstractContextManager[None]:
    """Matrix products in bfloat16 for `bfloat16` (torch's autocast); otherwise in the dtype of the parameters."""
    if dtype != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)  # pyright: ignore[reportReturnType]


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products of x here: autocast's where that is on, which leaves float64 alone, else its own."""
    device = x.device.type
    is_cast = x.dtype != torch.float64 and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_cast else x.dtype


@contextmanager
def in_full(x: Tensor) -> Generator[Callable[[Tensor], Tensor]]:
    """Casts no product within, and gives what casts a tensor to float32, or to x's float64.

    Sums over all of a text need the digits.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        yield lambda tensor: tensor.to(dtype)
