"""Several ranks in one process, which is each of them in turn."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import final

import torch
from torch import Tensor, nn

from thetahat.core.batch import Batch
from thetahat.distribution.world import MicroBatch, Turn


@final
class InTurn:
    """Makes the step of several ranks alone, from the micro-batches of all of them, rank after rank.

    It adds up as they do: on each rank in the order of its micro-batches, then over ranks in theirs. For two ranks that
    is what an all-reduce computes, to the bit; of more it may add the terms in another order.
    """

    def __init__(self, counts: Sequence[int], parameters: Sequence[nn.Parameter]) -> None:
        self._counts = counts  # micro-batches of each rank
        self._parameters = parameters
        self._gradients: list[list[Tensor | None]] = []  # of each rank

    def micro_batches(self, batches: Sequence[Batch]) -> Iterator[MicroBatch]:
        """Each micro-batch with its rank and its place there."""
        places = ((rank, index) for rank, count in enumerate(self._counts) for index in range(count))
        return (MicroBatch(*place, batch) for place, batch in zip(places, batches, strict=True))

    def turns(self, batches: Sequence[Batch], model: nn.Module, num_at_once: int = 1) -> Iterator[Sequence[Turn]]:
        """The same; the gradients of a rank are kept when its turn ends."""
        self._gradients, each = [], self.micro_batches(batches)
        for count in self._counts:
            turns = [Turn(one, torch.autograd.backward) for one in islice(each, count)]
            yield from (turns[first : first + num_at_once] for first in range(0, count, num_at_once))
            self._gradients.append([parameter.grad for parameter in self._parameters])
            for parameter in self._parameters:
                parameter.grad = None

    def sum_of(self, parts: Sequence[Tensor], zero: Tensor) -> Tensor:
        """The sum of one part a micro-batch: for each rank from `zero` on, and then over ranks."""
        first, sums = 0, list[Tensor]()
        for count in self._counts:
            sums.append(sum(parts[first : first + count], start=zero))
            first += count
        return sum(sums[1:], start=sums[0])

    def sum_of_turns(self, parts: Sequence[Tensor], zero: Tensor) -> Tensor:
        """The same of what turns have computed."""
        return self.sum_of(parts, zero)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gives each parameter the sum of its gradients over ranks; a rank without targets contributes zeros."""
        for place, parameter in enumerate(parameters):
            of_ranks = [gradients[place] for gradients in self._gradients]
            if len(of_ranks) == 1 or not parameter.requires_grad:
                parameter.grad = of_ranks[0]
                continue
            first, *others = [torch.zeros_like(parameter) if one is None else one for one in of_ranks]
            parameter.grad = sum(others, start=first)
