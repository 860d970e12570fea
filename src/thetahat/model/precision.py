"""The dtype of the arithmetic."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Dtype = Literal["float32", "bfloat16", "float64"]


def parameter_dtype(dtype: Dtype) -> torch.dtype:
    """What parameters, gradients and optimizer state are kept in: float64 for float64, else float32."""
    return torch.float64 if dtype == "float64" else torch.float32


def computing_in(dtype: Dtype, device: torch.device) -> AbstractContextManager[None]:
    """Matrix products in bfloat16 for `bfloat16` (torch's autocast); otherwise in the dtype of the parameters."""
    if dtype != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)  # pyright: ignore[reportReturnType]
