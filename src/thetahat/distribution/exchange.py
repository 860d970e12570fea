"""Sums over ranks through which gradients flow."""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


def fork(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """As it is; its gradient is the sum of what comes back from all ranks."""
    return cast(Tensor, _Fork.apply(x, group))


def join(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum over ranks, in at least float32; its gradient goes to each of them as it is."""
    return cast(Tensor, _Join.apply(x, group))


@torch.no_grad()
def largest(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The largest over ranks, without a gradient."""
    most = x.clone()
    dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
    return most


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _sum(gradients[0], ctx.group), None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _sum(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = x.to(torch.promote_types(x.dtype, torch.float32), copy=True, memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total.to(x.dtype)
