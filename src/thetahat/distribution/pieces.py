"""Tensors of which each rank has a piece: torch's DTensors, recognised without importing them, which takes a second."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from thetahat.distribution.mesh import SHARDS

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def is_sharded(model: object) -> bool:
    """Whether all ranks must read it together."""
    return hasattr(model, "set_requires_gradient_sync")


def is_piece(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether this rank has some of it only."""
    return hasattr(tensor, "placements")


def is_in_shards(tensor: Tensor) -> bool:
    """Whether it is gathered when it is read, and its gradient summed over ranks by the backward pass."""
    return is_piece(tensor) and SHARDS in (tensor.device_mesh.mesh_dim_names or ())


def piece(tensor: Tensor) -> Tensor:
    """What this rank has of it, sharing memory."""
    return tensor.to_local() if is_piece(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it, on every rank; all of them must ask, in the same order."""
    return tensor.full_tensor() if is_piece(tensor) else tensor


@torch.no_grad()
def fill(tensor: Tensor, source: Tensor) -> None:
    """Copies from a whole tensor what this rank has of it."""
    if is_piece(tensor):
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        shape, first = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        source = source[tuple(slice(start, start + size) for start, size in zip(first, shape, strict=True))]
    piece(tensor).copy_(source)


def sum_over_pieces(values: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Row i of `values` summed over the ranks among which tensor i is divided; of a whole one it stays as it is."""
    total = values
    for group, places in _groups(tensors):
        total = total.clone() if total is values else total
        rows = total[places]
        dist.all_reduce(rows, group=group)
        total[places] = rows
    return total


def _groups(tensors: Sequence[Tensor]) -> Iterable[tuple[dist.ProcessGroup, list[int]]]:
    """The process groups over which some tensors are divided, with the places of these."""
    places: dict[tuple[DeviceMesh, int], list[int]] = {}
    for place, tensor in enumerate(tensors):
        if is_piece(tensor):
            for dim, placement in enumerate(tensor.placements):
                if placement.is_shard():
                    places.setdefault((tensor.device_mesh, dim), []).append(place)
    return [(mesh.get_group(dim), those) for (mesh, dim), those in places.items()]


def expect_backward(model: nn.Module, *, is_last: bool) -> None:
    """Said before a micro-batch is read: behind the last backward pass of a step gradients are summed over ranks."""
    if is_sharded(model):
        cast("FSDPModule", model).set_requires_gradient_sync(is_last)


@contextmanager
def reading(model: object) -> Generator[None]:
    """Reads without a gradient; afterwards each rank has its pieces only, so that no old value stays gathered."""
    try:
        yield
    finally:
        for module in units_of(model):
            module.reshard()


@contextmanager
def undivided(model: nn.Module) -> Generator[None]:
    """Gives every rank the whole model inside the block, so that each may read on its own, backwards too.

    The gradients of that are not summed, and are to be thrown away. It needs the memory of a whole model.
    """
    modules = units_of(model)
    for module in modules:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
        module.set_reshard_after_backward(False, recurse=False)
        module.set_requires_gradient_sync(False, recurse=False)
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(id(module) != id(model), recurse=False)
            module.set_reshard_after_backward(True, recurse=False)
            module.set_requires_gradient_sync(True, recurse=False)
            module.reshard()


def units_of(model: object) -> "list[FSDPModule]":
    """The modules that are gathered one at a time, the model itself among them; none where it is whole."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return [cast("FSDPModule", module) for module in modules if is_sharded(module)]
