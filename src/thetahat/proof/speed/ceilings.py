"""What this machine reaches at the shapes of a model: products, copies, and sums over ranks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from thetahat.distribution.world import World
from thetahat.model.build import LanguageModel
from thetahat.model.layers.experts import Experts
from thetahat.run.cost.ceiling import copy_rate, product_rate, quickest
from thetahat.run.state import State

SQUARE = {"cpu": 1024, "cuda": 8192}  # rows and columns of the large product
MOST_SHAPES = 5  # of products of a model, those with most operations
SHORTEST = 0.1  # seconds that each is repeated
SUMMED = 1 << 24  # numbers that ranks sum
WORTH = 1.5  # times as quick: from which on another dtype is pointed out

Shape = tuple[int, int, int]  # rows, inputs, outputs


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The best that was measured of one kind of work, and how it came out each time."""

    what: str
    unit: str  # FLOP/s or B/s
    each: tuple[float, ...]  # one for each round

    @property
    def best(self) -> float:
        """The quickest of all rounds."""
        return max(self.each)

    @property
    def spread(self) -> float:
        """By how much of the best the slowest round stays behind."""
        return 1 - min(self.each) / self.best

    def to_dict(self) -> dict[str, object]:
        """What `--json` prints."""
        return {"what": self.what, "unit": self.unit, "best": self.best, "spread": self.spread, "each": self.each}


def shapes_of(model: LanguageModel, positions: int, logits: int) -> list[Shape]:
    """Of the largest products of a model, for so many positions read at once, and logits for so many of them."""
    shapes = {(max(logits, 1), model.head.weight.shape[1], model.head.num_outputs)}
    apart = {id(one) for found in model.modules() if isinstance(found, Experts) for one in found.modules()}
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module) not in apart:  # experts read some positions each
            shapes.add((max(positions, 1), module.in_features, module.out_features))
    return sorted(shapes, key=math.prod, reverse=True)[:MOST_SHAPES]


def measure_once(state: State, shapes: Sequence[Shape], world: World) -> dict[str, float]:
    """Each rate once, by name; all ranks measure at the same time, and the first one's are those that are shown.

    The shapes of the model are multiplied as its steps do: by threads that have one each, where these read
    micro-batches at once. The square is multiplied by all threads together.
    """
    device, dtype, side = state.device, state.config.dtype, SQUARE[state.device.type]
    found = {_named(shape): product_rate(device, dtype, shape, SHORTEST, state.workers) for shape in shapes}
    found[_named((side, side, side))] = product_rate(device, dtype, (side, side, side), SHORTEST)
    found[COPY] = copy_rate(device, SHORTEST)
    if world.size > 1:
        found[SUM] = _sum_rate(device, world)
    return {name: float(rate) for name, rate in found.items()}


def narrower(state: State, quickest: float) -> str | None:
    """Says so where products in bfloat16 are much quicker than `quickest`, FLOP/s in the float32 of the config."""
    if state.config.dtype != "float32":
        return None
    side = SQUARE[state.device.type]
    rate = product_rate(state.device, "bfloat16", (side, side, side), SHORTEST)
    if rate < WORTH * quickest:
        return None
    return (
        f"products in bfloat16 are {rate / quickest:.1f} times as quick here: dtype=bfloat16 rounds what layers hand "
        "on to 8 bits, and keeps parameters, gradients and log-probabilities in float32"
    )


def joined(rounds: Sequence[dict[str, float]]) -> tuple[Ceiling, ...]:
    """What each round has found, together."""
    return tuple(
        Ceiling(name, "B/s" if name in {COPY, SUM} else "FLOP/s", tuple(one[name] for one in rounds))
        for name in rounds[0]
    )


COPY, SUM = "copy in memory", "sum over ranks"


def _named(shape: Shape) -> str:
    rows, inputs, outputs = shape
    return f"{rows:,} x {inputs:,} x {outputs:,}"


def _sum_rate(device: torch.device, world: World) -> float:
    r"""Bytes/s that each of n ranks sends in a sum: $2 (n - 1) / n$ of the numbers. All make as many calls."""
    numbers, seconds = torch.ones(SUMMED, device=device), []
    for _ in range(3):
        world.barrier()
        seconds.append(quickest(lambda: world.sum_of_all(numbers), device, 0.0))
    return 2 * (world.size - 1) / world.size * numbers.nbytes / min(seconds)
