"""Time and memory of the objective alone: head, log-probabilities, and their gradient, by each kernel in turn.

    python benchmarks/head.py [quickstart|124m|1b ...] [--device cuda] [--dtype bfloat16] [--compile] [--times 5]

All compute the same weighted sum, which is checked first. `products` are the three matrix products without which there
is no gradient. `torch` is torch.nn.functional.linear_cross_entropy in chunks, without weights, log Z and soft cap.
Times are medians, on a CPU of the one thread that computes; memory is the most that is held beside states, head and
their gradients.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import linear_cross_entropy

from benchmarks.cost import Living
from thetahat.model.layers.head import Head
from thetahat.objective.chunked import Chunked, weighed
from thetahat.objective.log_prob import Kernel, reference

SIZES = {"quickstart": (4096, 128, 1024, 512), "124m": (1024, 768, 50304, 256), "1b": (512, 2048, 128256, 128)}
ON_GPU = {"quickstart": (65536, 128, 1024, 8192), "124m": (32768, 768, 50304, 8192), "1b": (16384, 2048, 128256, 4096)}
Way = Callable[[Tensor, Head, Tensor, Tensor], Tensor]


def plain(kernel: Kernel, hidden: Tensor, head: Head, targets: Tensor, weights: Tensor) -> Tensor:
    """By a kernel whose gradient may be of anything."""
    return weighed(kernel(hidden, head, targets), weights)


def autograd(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The reference as torch differentiates it."""
    logits = head(hidden).to(torch.float32)
    log_normalizer = logits.logsumexp(-1)
    return logits.gather(-1, targets[:, None])[:, 0] - log_normalizer, log_normalizer


def by_autograd(hidden: Tensor, head: Head, targets: Tensor, weights: Tensor) -> Tensor:
    """Of it the weighted sum."""
    return (weights * autograd(hidden, head, targets)[0].double()).sum()


def by_torch(size: int, hidden: Tensor, head: Head, targets: Tensor, weights: Tensor) -> Tensor:
    """The sum without weights."""
    options = LinearCrossEntropyOptions(batch_chunk_size=size, chunking_method=None)
    return -linear_cross_entropy(hidden, head.weight, targets, reduction="sum", options=options)


def ways_of(size: int, compiles: bool) -> dict[str, Way]:
    """Each by its name."""
    kernel: Kernel = torch.compile(reference) if compiles else reference
    return {
        "autograd": by_autograd,
        "reference": partial(plain, kernel),
        "chunks, of anything": partial(plain, Chunked(size, kernel)),
        "chunks, of the sum": lambda *given: Chunked(size, kernel).summed(*given)[0],
        "torch": partial(by_torch, size),
    }


def main() -> None:
    """Prints a table a size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", default=["quickstart", "124m"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--times", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name in chosen.sizes:
        num_tokens, width, vocab_size, size = (SIZES if chosen.device == "cpu" else ON_GPU)[name]
        print(f"{name}: {num_tokens} tokens, width {width}, vocabulary {vocab_size}, chunks of {size}", flush=True)
        one = Bench(chosen, num_tokens, width, vocab_size, ways_of(size, chosen.compile))
        one.check()
        for way, milliseconds in one.timed().items():
            peak = "" if way == "products" else f"{one.peak(way) / 2**20:10.1f} MiB"
            print(f"  {way:20s} {milliseconds:10.1f} ms {peak}", flush=True)


class Bench:
    """One size, and the ways to compute it."""

    def __init__(self, chosen: argparse.Namespace, num_tokens: int, width: int, vocab_size: int, ways: dict[str, Way]):
        torch.manual_seed(0)
        self.device, self.times, self.ways = torch.device(chosen.device), chosen.times, ways
        self.dtype = getattr(torch, chosen.dtype)
        self.hidden = torch.randn(num_tokens, width, device=self.device, requires_grad=True)
        self.head = Head(width, vocab_size).to(self.device)
        self.targets = torch.randint(0, vocab_size, (num_tokens,), device=self.device)
        self.weights = torch.ones(num_tokens, dtype=torch.float64, device=self.device)

    def run(self, way: str) -> float:
        """Forwards and backwards."""
        self.hidden.grad = self.head.weight.grad = None
        if way == "products":
            with torch.no_grad(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                logits = self.hidden @ self.head.weight.T
                _ = logits @ self.head.weight, logits.T @ self.hidden
            return 0.0
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            value = self.ways[way](self.hidden, self.head, self.targets, self.weights)
        (-value / len(self.targets)).backward()
        return value.item()

    def check(self) -> None:
        """All find the same value and gradient, as far as the dtype goes."""
        bound, found = (1e-5 if self.dtype == torch.float32 else 3e-2), None
        for way in self.ways:
            value = self.run(way)
            here = (value, self.hidden.grad, self.head.weight.grad)
            found = found or here
            assert abs(value / found[0] - 1) < bound, way
            for one, other in zip(here[1:], found[1:], strict=True):
                assert one is not None
                assert other is not None
                assert (one - other).norm() < bound * other.norm(), way

    def timed(self) -> dict[str, float]:
        """Medians in milliseconds, of rounds in which each way has its turn."""
        seconds: dict[str, list[float]] = {way: [] for way in ("products", *self.ways)}
        clock = time.thread_time if self.device.type == "cpu" else time.perf_counter
        for _ in range(self.times):
            for way, each in seconds.items():
                self._wait()
                before = clock()
                self.run(way)
                self._wait()
                each.append(clock() - before)
        return {way: 1e3 * statistics.median(each) for way, each in seconds.items()}

    def peak(self, way: str) -> int:
        """Bytes beyond those of states, head, and both gradients."""
        kept = 2 * 4 * (self.hidden.numel() + self.head.weight.numel())
        self.hidden.grad = self.head.weight.grad = None
        if self.device.type == "cpu":
            with Living() as living:
                living.note(self.hidden)
                living.note(self.head.weight)
                self.run(way)
            return living.most - kept
        torch.cuda.reset_peak_memory_stats()
        self.run(way)
        return torch.cuda.max_memory_allocated() - kept

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


if __name__ == "__main__":
    main()
