"""What this machine reaches: matrix products and copies, measured for a moment."""

import time
from collections.abc import Callable

import torch

from thetahat.core.work.threads import Pool, Workers
from thetahat.model.config import Dtype
from thetahat.run.cost.devices import Rates

SHAPE = (2048, 768, 3072)  # rows, inputs, outputs of a product as models have them
COPIED = 1 << 26  # numbers in a copy, which no cache holds
SHORTEST = 0.3  # seconds that each is repeated
KINDS = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}

ALONE = Workers()


def measure_rates(device: torch.device, dtype: Dtype) -> Rates:
    """The best of repeated products and copies on a device, in FLOP/s and bytes/s; takes about a second.

    Attention is taken to be as quick as products are, which it is not quite: the ceiling of a step, not its pace.
    """
    products = product_rate(device, dtype, SHAPE)
    return Rates(products, products, copy_rate(device))


def product_rate(
    device: torch.device,
    dtype: Dtype,
    shape: tuple[int, int, int],
    shortest: float = SHORTEST,
    workers: Pool = ALONE,
) -> int | float:
    """FLOP/s of the quickest of repeated products of [rows, inputs] and [inputs, outputs], one by each worker."""
    rows, inputs, outputs = shape
    kind = KINDS[dtype]
    right = torch.randn(inputs, outputs, device=device, dtype=kind)
    lefts = [torch.randn(rows, inputs, device=device, dtype=kind) for _ in range(workers.number)]
    outs = [left.new_empty(rows, outputs) for left in lefts]

    def multiply(place: int) -> None:
        torch.mm(lefts[place], right, out=outs[place])

    def work() -> None:
        if workers.number == 1:
            multiply(0)
        else:
            all(one is None for one in workers.map(multiply, range(workers.number)))

    return 2 * rows * inputs * outputs * workers.number / quickest(work, device, shortest)


def copy_rate(device: torch.device, shortest: float = SHORTEST) -> int | float:
    """Bytes/s of the quickest of repeated copies, what is read and what is written."""
    source = torch.ones(COPIED, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / quickest(lambda: target.copy_(source), device, shortest)


def quickest(work: Callable[[], object], device: torch.device, shortest: float = SHORTEST) -> int | float:
    """Seconds of the quickest of the calls that fit into `shortest`, the first left out."""
    work()
    best, begun = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begun < shortest:
        wait_for(device)
        before = time.perf_counter()
        work()
        wait_for(device)
        best = min(best, time.perf_counter() - before)
    return best


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
