"""Holds torch's compiler back, without importing it where nothing was compiled."""

import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


def eagerly(device: torch.device) -> AbstractContextManager[Any]:
    """Within it nothing is compiled for the shapes of a short look, and what was compiled runs as it is written.

    On a CPU, whose attention is never compiled alone, a process that has not imported the compiler has compiled
    nothing. To ask it would import it, which takes two seconds.
    """
    if device.type == "cpu" and "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def is_compiled(model: object) -> bool:
    """Whether a part of it is, so that one thread alone may call it: torch traces for the whole process."""
    return isinstance(model, nn.Module) and bool(_compiled_parts(model))


@contextmanager
def as_written(model: nn.Module) -> Generator[None]:
    """Within it no part of the model is a compiled one, whoever asks: attention chooses its kernels accordingly."""
    compiled = _compiled_parts(model)
    for part in compiled:
        part._compiled_call_impl = None  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        for part, call in compiled.items():
            part._compiled_call_impl = call  # pyright: ignore[reportPrivateUsage]


def _compiled_parts(model: nn.Module) -> dict[nn.Module, Any]:
    calls = {part: part._compiled_call_impl for part in model.modules()}  # pyright: ignore[reportPrivateUsage]
    return {part: call for part, call in calls.items() if call is not None}
