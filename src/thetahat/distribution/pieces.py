"""Tensors of which each rank has a piece: torch's DTensors, recognised without importing them, which takes a second."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard, cast, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from thetahat.core.absent import is_absent
from thetahat.distribution.mesh import SHARDS

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

GROUP = "reading_group"  # of a model: the ranks that compute its products, or its layers, together
STAGE = "pipeline_stage"  # of a model: what gives the order in which a stage of a pipeline reads
_HOME = "home"  # of a parameter
_MOST = 256


def is_sharded(model: object) -> bool:
    """Whether several ranks must read it together."""
    return _is_unit(model) or hasattr(model, GROUP)


@runtime_checkable
class OfPipeline(Protocol):
    """What a model has on a stage of a pipeline."""

    def turns(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The order in which its layers read."""
        ...


def stage_of(model: object) -> OfPipeline | None:
    """The stage of a pipeline that a model is; None where it has all of its layers."""
    return getattr(model, STAGE, None)


def _is_unit(module: object) -> bool:
    """Whether its shards are gathered when it is read."""
    return hasattr(module, "set_requires_gradient_sync")


def agreed(model: object, flag: bool) -> bool:
    """Whether the flag is set on any of the ranks that compute one model together; where one has all of it, `flag`.

    So all of them go on alike.
    """
    group: dist.ProcessGroup | None = getattr(model, GROUP, None)
    if group is None:
        return flag
    votes = torch.tensor(int(flag))
    dist.all_reduce(votes, group=group)
    return bool(votes)


def said_by_stages(model: object, text: str) -> list[str]:
    """What each stage of a pipeline says, at most `_MOST` characters, in their order; else only what is said here."""
    if stage_of(model) is None:
        return [text]
    group = getattr(model, GROUP)
    letters = torch.zeros(dist.get_world_size(group), _MOST, dtype=torch.int64)
    mine = torch.tensor([*map(ord, text[:_MOST])], dtype=torch.int64)
    letters[dist.get_rank(group), : len(mine)] = mine
    dist.all_reduce(letters, group=group)
    return ["".join(map(chr, row)).rstrip("\0") for row in letters.tolist()]


def is_piece(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether this rank has some of it only."""
    return hasattr(tensor, "placements")


def is_in_shards(tensor: Tensor) -> bool:
    """Whether it is gathered when it is read, and its gradient summed over ranks by the backward pass."""
    return is_piece(tensor) and SHARDS in (tensor.device_mesh.mesh_dim_names or ())


def piece(tensor: Tensor) -> Tensor:
    """What this rank has of it, sharing memory; of what another stage of a pipeline has, no elements."""
    if tensor.is_meta:
        return torch.empty(0, dtype=tensor.dtype, device=_device())
    return tensor.to_local() if is_piece(tensor) else tensor


def _device() -> str:
    """Where tensors lie that ranks exchange."""
    return "cuda" if dist.is_initialized() and "nccl" in dist.get_backend_config() else "cpu"


class Home(NamedTuple):
    """Which stages of a pipeline have a parameter: the one whose layers read it, or several."""

    stages: tuple[int, ...]  # that have it
    stage: int  # this one
    group: dist.ProcessGroup  # of all stages
    sharing: dist.ProcessGroup | None  # of those that have it, where several do

    @property
    def counts(self) -> bool:
        """Whether sums over the model take it from this stage."""
        return self.stage == self.stages[0]


def home_of(parameter: Tensor) -> Home | None:
    """Where a parameter is; None where there is no pipeline."""
    return getattr(parameter, _HOME, None)


def is_divided(parameter: Tensor) -> bool:
    """Whether other ranks have some of it, or all."""
    return is_piece(parameter) or home_of(parameter) is not None


def settle(model: nn.Module, homes: Mapping[str, Home]) -> None:
    """Notes where the parameters of a model are, which have got their memory."""
    for name, parameter in model.named_parameters() if homes else ():
        setattr(parameter, _HOME, homes[name])


def gradient_of(parameter: Tensor) -> Tensor | None:
    """The gradient, if there is one; of a parameter that another stage has, a gradient that this one does not have."""
    return torch.zeros_like(parameter) if is_absent(parameter) and parameter.requires_grad else parameter.grad


def sum_over_homes(parameters: Iterable[Tensor]) -> None:
    """Replaces the gradient of what several stages have by its sum: each has that of its own layers."""
    for parameter in parameters:
        home = home_of(parameter)
        if home and home.sharing and home.stage in home.stages and parameter.grad is not None:
            dist.all_reduce(piece(parameter.grad), group=home.sharing)


class Cut(NamedTuple):
    """One of the divisions by which a tensor came to be a piece."""

    group: dist.ProcessGroup  # whose ranks have the parts
    axis: int
    length: int  # of the axis, before


def whole(tensor: Tensor) -> Tensor:
    """All of it, on every rank; all of them must ask, in the same order. What another stage has stays there."""
    if tensor.is_meta or not is_piece(tensor):
        return tensor
    found = piece(tensor).detach()
    for cut in reversed(cuts_of(tensor)):
        found = _joined(found, cut)
    return found


def _joined(part: Tensor, cut: Cut) -> Tensor:
    """What the ranks of a group have, one behind the other; all but the last parts are equally long."""
    most = -(-cut.length // dist.get_world_size(cut.group))
    padded = part.new_zeros(*part.shape[: cut.axis], most, *part.shape[cut.axis + 1 :])
    padded.narrow(cut.axis, 0, part.shape[cut.axis]).copy_(part)
    parts = [torch.empty_like(padded) for _ in range(dist.get_world_size(cut.group))]
    dist.all_gather(parts, padded, group=cut.group)
    return torch.cat(parts, cut.axis).narrow(cut.axis, 0, cut.length).contiguous()


@torch.no_grad()
def fill(tensor: Tensor, source: Tensor) -> None:
    """Copies what this rank has of it, from a whole tensor or from one that is divided alike."""
    if tensor.is_meta:
        return
    for cut in () if is_piece(source) else cuts_of(tensor):
        first, size = share_of(cut.length, dist.get_rank(cut.group), dist.get_world_size(cut.group))
        source = source.narrow(cut.axis, first, size)
    piece(tensor).copy_(piece(source))


def cuts_of(tensor: Tensor) -> list[Cut]:
    """The divisions of a tensor, the first one first: over the ranks of a product, then over shards."""
    if not is_piece(tensor):
        return []
    shape, cuts = list(tensor.shape), list[Cut]()
    for dim, placement in reversed([*enumerate(tensor.placements)]):
        if (axis := getattr(placement, "dim", None)) is not None:
            group = tensor.device_mesh.get_group(dim)
            cuts.append(Cut(group, axis, shape[axis]))
            shape[axis] = share_of(shape[axis], dist.get_rank(group), dist.get_world_size(group))[1]
    return cuts


def share_of(length: int, rank: int, size: int) -> tuple[int, int]:
    r"""Where a rank's part of an axis begins, and its length: $\lceil L / n \rceil$ but for the last parts."""
    most = -(-length // size)
    first = min(rank * most, length)
    return first, min(most, length - first)


def sum_over_pieces(values: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Row i of `values` summed over the ranks among which parameter i is divided; of a whole one it stays as it is.

    Of a pipeline all stages get the row of a stage that has it.
    """
    total = values
    for group, places in _groups(tensors):
        total = total.clone() if total is values else total
        rows = total[places]
        dist.all_reduce(rows, group=group)
        total[places] = rows
    homes = [home_of(tensor) for tensor in tensors]
    if homes and (first := homes[0]):
        counts = torch.tensor([home is not None and home.counts for home in homes], device=total.device)
        total = torch.where(counts.view(-1, *[1] * (total.ndim - 1)), total, 0)
        dist.all_reduce(total, group=first.group)
    return total


def _groups(tensors: Sequence[Tensor]) -> Iterable[tuple[dist.ProcessGroup, list[int]]]:
    """The process groups over which some tensors are divided, with the places of these."""
    places: dict[dist.ProcessGroup, list[int]] = {}
    for place, tensor in enumerate(tensors):
        for cut in cuts_of(tensor):
            places.setdefault(cut.group, []).append(place)
    return places.items()


def expect_backward(model: nn.Module, *, is_last: bool) -> None:
    """Said before a micro-batch goes back: behind the last backward pass of a step gradients are summed over ranks."""
    if _is_unit(model):
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
    """Gives every rank all shards of the model inside the block, so that each may read on its own, backwards too.

    Ranks that compute a product together still read together. The gradients of that are not summed, and are to be
    thrown away. It needs the memory of a whole model, or of a rank's part of its products.
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
    return [cast("FSDPModule", module) for module in modules if _is_unit(module)]
