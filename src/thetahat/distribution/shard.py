"""A model in pieces: each rank keeps some rows of every matrix, and has a whole one only while it is read.

By torch's FSDP2 (Zhao et al., PyTorch FSDP, 2023, arXiv 2304.11277): parameters, gradients and optimizer state are
DTensors, of which a rank has its piece. Vectors are too small to be worth it: each rank keeps them whole, and `World`
sums their gradients.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from thetahat.core.absent import is_absent
from thetahat.distribution.pieces import units_of


class Policy(NamedTuple):
    """How pieces are held and gathered."""

    products: torch.dtype | None = None  # a narrower dtype, in which units are gathered; None: in that of parameters
    on_host: bool = False  # they lie on the host with their gradients, which is where they must get their memory

    def for_unit(self) -> MixedPrecisionPolicy:
        """Of a unit, whose matrices would be cast to that dtype to be read."""
        if self.products is None:
            return MixedPrecisionPolicy()
        return MixedPrecisionPolicy(param_dtype=self.products, reduce_dtype=torch.float32, cast_forward_inputs=False)

    def place(self, mesh: DeviceMesh) -> OffloadPolicy:
        """Where pieces lie; on the host in memory from which a GPU can copy."""
        return CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if self.on_host else OffloadPolicy()


def shard(
    model: nn.Module,
    units: Iterable[nn.Module],
    methods: Sequence[str],
    mesh: DeviceMesh,
    policy: Policy,
    kept: Iterable[nn.Parameter] = (),
) -> None:
    """Divides the rows of all matrices of a model over the shards of a mesh, but for those that are `kept` whole.

    A unit (a block) is whole from when it is read until it has been read, forwards and backwards. What is in no unit
    (tables, the head) is whole from the call of one of `methods` of the model to the end of the backward pass, so that
    the head may be called in as many portions as a rank likes. Gradients are summed over ranks, never averaged.
    What other stages of a pipeline have is theirs.
    """
    place = policy.place(mesh)
    ignored = {parameter for parameter in model.parameters() if parameter.ndim < 2 or is_absent(parameter)} | set(kept)
    for unit in (one for one in units if not any(map(is_absent, one.parameters()))):
        fully_shard(unit, mesh=mesh, ignored_params=ignored, mp_policy=policy.for_unit(), offload_policy=place)
        if hasattr(unit, "remember"):  # a block of a decoder is asked for what it reads of a source
            register_fsdp_forward_method(unit, "remember")
    root = fully_shard(model, mesh=mesh, ignored_params=ignored, offload_policy=place)
    for module in units_of(model):  # neither setter reaches the modules inside
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    if (head := getattr(model, "head", None)) is not None:  # where it is asked alone, as by the checks of a run
        head.register_forward_pre_hook(partial(_ensure_whole, root))
    for method in (name for name in methods if hasattr(model, name)):
        register_fsdp_forward_method(model, method)


def _ensure_whole(root: FSDPModule, _module: nn.Module, _arguments: Any) -> None:
    """Gathers what is in no unit; without an exchange where it is whole already."""
    root.unshard()
