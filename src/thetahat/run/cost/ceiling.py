"""What this machine reaches: matrix products and copies, measured for a moment."""

import time
from collections.abc import Callable

import torch

from thetahat.model.config import Dtype
from thetahat.run.cost.devices import Rates

SHAPE = (2048, 768, 3072)  # rows, inputs, outputs of a product as models have them
COPIED = 1 << 26  # numbers in a copy, which no cache holds
SHORTEST = 0.3  # seconds that each is repeated


def measure_rates(device: torch.device, dtype: Dtype) -> Rates:
    """The best of repeated products and copies on a device, in FLOP/s and bytes/s; takes about a second.

    Attention is taken to be as quick as products are, which it is not quite: the ceiling of a step, not its pace.
    """
    kind = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}[dtype]
    rows, inputs, outputs = SHAPE
    left, right = (
        torch.randn(rows, inputs, device=device, dtype=kind),
        torch.randn(inputs, outputs, device=device, dtype=kind),
    )
    products = 2 * rows * inputs * outputs / _quickest(lambda: left @ right, device)
    source = torch.ones(COPIED, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / _quickest(lambda: target.copy_(source), device)
    return Rates(products, products, bandwidth)


def _quickest(work: Callable[[], object], device: torch.device) -> int | float:
    """Seconds of the quickest of the calls that fit into `SHORTEST`, the first left out."""
    work()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < SHORTEST:
        _wait(device)
        before = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - before)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
