"""Copies between host and device for which neither waits."""

from collections.abc import Callable

import torch
from torch import Tensor


def onto(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor there; to a GPU it goes through pinned memory, so that the host can go on at once."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def later(tensor: Tensor) -> Callable[[], Tensor]:
    """The values, for whoever asks for them later: the copy is under way, and only what was asked before it is awaited.

    On a GPU a plain `cpu()` would wait for all that has been asked since.
    """
    if tensor.device.type != "cuda":
        return tensor.cpu
    copy = tensor.to("cpu", non_blocking=True)  # into pinned memory
    is_there = torch.cuda.Event()
    is_there.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        is_there.synchronize()
        return copy

    return wait
