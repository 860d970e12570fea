"""Holds torch's compiler back, without importing it where nothing was compiled."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def eagerly(device: torch.device) -> AbstractContextManager[Any]:
    """Within it nothing is compiled for the shapes of a short look, and what was compiled runs as it is written.

    On a CPU, whose attention is never compiled alone, a process that has not imported the compiler has compiled
    nothing. To ask it would import it, which takes two seconds.
    """
    if device.type == "cpu" and "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
