"""torch's operations on lists of tensors, a launch for each device; torch's own names begin with an underscore."""

from collections.abc import Sequence

import torch
from torch import Tensor

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false


def multiply_(tensors: Sequence[Tensor], factor: float | Tensor) -> None:
    """Multiplies each by one number; if that is a tensor, the host waits for it only where some lie on the host."""
    for those in on_each_device(tensors):
        here = [tensors[place] for place in those]
        torch._foreach_mul_(here, factor.to(here[0].device) if isinstance(factor, Tensor) else factor)


def lerp_(tensors: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> None:
    """Moves each towards its end by the fraction `weight` of the way, in place."""
    for those in on_each_device(tensors):
        torch._foreach_lerp_([tensors[place] for place in those], [ends[place] for place in those], weight)


def lerp(tensors: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> Sequence[Tensor]:
    """New tensors, the fraction `weight` of the way from each to its end."""
    return torch._foreach_lerp(list(tensors), list(ends), weight)


def norms(tensors: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """The 2-norm of each, summed in `dtype`."""
    found: dict[int, Tensor] = {}
    for those in on_each_device(tensors):
        found |= zip(those, torch._foreach_norm([tensors[place] for place in those], 2, dtype), strict=True)
    return [found[place] for place in range(len(tensors))]


def together(values: Sequence[Tensor]) -> Tensor:
    """Stacks one tensor of each: on the GPU where some are there, else where they are."""
    places = on_each_device(values)
    device = next((one.device for one in values if one.device.type != "cpu"), None)
    if device is None or len(places) == 1:
        return torch.stack([*values])
    stacked = torch.cat([torch.stack([values[place] for place in those]).to(device) for those in places])
    order = torch.tensor([place for those in places for place in those], device=device)
    return stacked[order.argsort()]


def on_each_device(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The places of the tensors on each device, since an operation on a list takes those of one."""
    places: dict[torch.device, list[int]] = {}
    for place, tensor in enumerate(tensors):
        places.setdefault(tensor.device, []).append(place)
    return [*places.values()]
