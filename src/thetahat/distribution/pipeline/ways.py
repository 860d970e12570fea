"""What neighbouring stages of a pipeline send each other: states, and on the way back their gradients."""

from collections import deque
from collections.abc import Sequence
from typing import Any, cast, final

import torch
import torch.distributed as dist
from torch import Tensor

from thetahat.distribution.mesh import Stages


@final
class Ways:
    """To the neighbours of a stage; the last one is followed by the first. Who sends does not wait, who receives does.

    The shape of what comes is known, since all stages have the micro-batch.
    """

    def __init__(self, stages: Stages, dtype: torch.dtype) -> None:
        self._stages, self._dtype = stages, dtype
        self._sent: deque[tuple[dist.Work, Tensor]] = deque()  # what may not have arrived

    def send(self, states: Tensor, *, is_back: bool = False) -> None:
        """To the next stage, or back to the one before."""
        while self._sent and self._sent[0][0].is_completed():
            self._sent.popleft()
        group, stage = self._to(is_back=is_back)
        states = states.detach().to(self._dtype).contiguous()
        work = dist.isend(states, group=group, group_dst=stage)
        self._sent.append((cast(dist.Work, work), states))

    def receive(self, shape: Sequence[int], device: torch.device, *, is_back: bool = False) -> Tensor:
        """What the stage before has sent, or the next one has sent back."""
        states = torch.empty(*shape, dtype=self._dtype, device=device)
        group, stage = self._from(is_back=is_back)
        dist.recv(states, group=group, group_src=stage)
        return states

    def _to(self, *, is_back: bool) -> tuple[dist.ProcessGroup, int]:
        rank, size = self._stages.share
        is_around = rank == (0 if is_back else size - 1)
        return self._stages.ways[is_back + 2 * is_around], (rank + (-1 if is_back else 1)) % size

    def _from(self, *, is_back: bool) -> tuple[dist.ProcessGroup, int]:
        rank, size = self._stages.share
        is_around = rank == (size - 1 if is_back else 0)
        return self._stages.ways[is_back + 2 * is_around], (rank + (1 if is_back else -1)) % size


def sent(states: Tensor, before: Tensor, ways: Ways) -> Tensor:
    """Sends states on. What is left has no elements; its gradient is what comes back for the states.

    It has a gradient where `before`, which is left of an earlier pass, has one.
    """
    return cast(Tensor, _Sent.apply(states, before, ways))


def received(before: Tensor, shape: Sequence[int], device: torch.device, ways: Ways) -> Tensor:
    """The states that were sent here. Behind their way back follows that of `before`, left of an earlier pass."""
    return cast(Tensor, _Received.apply(before, shape, device, ways))


class _Sent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, before: Tensor, ways: Ways) -> Tensor:
        ways.send(states)
        ctx.shape, ctx.dtype, ctx.ways = states.shape, states.dtype, ways
        return states.new_empty(*states.shape[:-1], 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.ways.receive(ctx.shape, gradients[0].device, is_back=True).to(ctx.dtype), None, None


class _Received(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, before: Tensor, shape: Sequence[int], device: torch.device, ways: Ways) -> Tensor:
        ctx.before, ctx.ways = before.shape, ways
        return ways.receive(shape, device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.ways.send(gradients[0], is_back=True)
        return gradients[0].new_empty(ctx.before), None, None, None
