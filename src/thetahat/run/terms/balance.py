"""What a step finds of the routers of a model with experts: their loads, and the penalties on them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float64, Int, Int64
from torch import Tensor

from thetahat.core.batch import Batch, Inputs
from thetahat.distribution.world import Ranks
from thetahat.model.build import LanguageModel
from thetahat.model.layers.experts import Routing, noting_routes, routers_of
from thetahat.objective.balance import load, moved_bias, router_z, sequence_balance
from thetahat.objective.config import BalanceConfig


@dataclass(frozen=True, slots=True)
class Routed:
    """What the routers of a model chose in a step, over all of its micro-batches and ranks; padding counts nowhere."""

    loads: Int64[Tensor, "R E"]  # by how many positions each router chose each expert
    sequence_balance: Float64[Tensor, ""] | None  # the mean over positions and layers; None: it has no weight
    router_z: Float64[Tensor, ""] | None

    def to_dict(self) -> dict[str, float | int]:
        """The numbers of a line of metrics.jsonl: of loads, those of the layer where they are most uneven."""
        loads = self.loads.cpu()  # the one wait for them
        shares = loads.double() / loads.sum(1, keepdim=True).clamp(min=1)
        num_experts = shares.shape[1]
        entropy = torch.special.entr(shares).sum(1) / torch.tensor(float(num_experts)).log()
        found: dict[str, float | int] = {
            "expert_load": float(shares.max() * num_experts),  # 1: all alike
            "expert_entropy": float(entropy.min()),  # of a share of 1
            "dead_experts": int((loads == 0).sum()),
        }
        penalties = {"sequence_balance": self.sequence_balance, "router_z": self.router_z}
        return found | {name: float(value) for name, value in penalties.items() if value is not None}


@final
class Balancing:
    """The balance of experts in one step; of a model without experts it does nothing."""

    def __init__(self, model: LanguageModel, config: BalanceConfig, batches: Sequence[Batch], world: Ranks) -> None:
        self._config, self._world, self._device = config, world, model.device
        self._routers = routers_of(model) if model.config.experts else {}
        self._loads: list[Int64[Tensor, "R E"]] = []  # one a micro-batch
        self._penalties: list[Float64[Tensor, " 2"]] = []
        self._num_read = torch.ones(2, dtype=torch.float64)  # positions of the step: read by an encoder, and by others
        if self._routers and (self._config.sequence or self._config.router_z):
            zero = torch.zeros(2, dtype=torch.float64)
            self._num_read = world.sum_of([_num_read(batch) for batch in batches], zero).clamp(min=1)

    def noting(self) -> AbstractContextManager[list[tuple[str, Routing]]]:
        """Notes what routers choose for the next micro-batch, which is read inside the block."""
        if not self._routers:
            return nullcontext([])
        return noting_routes(self._routers)

    def penalty(self, batch: Batch, noted: Sequence[tuple[str, Routing]]) -> Tensor | float:
        r"""This micro-batch's part of what is subtracted from the mean log-likelihood of the step.

        $\sum_\ell \tfrac{1}{N_\ell} \left(\alpha \sum_s n_s B_{\ell,s} + \beta \sum_t Z_{\ell,t}\right)$ over layers
        with experts, sequences and positions, with the weights `sequence` and `router_z`; $N_\ell$ are the positions
        that the layer reads in the whole step.
        """
        if not noted:
            return 0.0
        config, places = self._config, {name: place for place, name in enumerate(self._routers)}
        loads = torch.zeros(len(places), noted[0][1].scores.shape[1], dtype=torch.int64, device=self._device)
        total, found = torch.zeros((), dtype=torch.float64, device=self._device), loads.new_zeros(2).double()
        for name, routing in noted:
            is_of_source = name.startswith("encoder.") and batch.inputs.source is not None
            inputs = batch.inputs.source.inputs if is_of_source and batch.inputs.source else batch.inputs
            sequence, of_row = _sequences(inputs, counts=not batch.is_idle)
            loads[places[name]] += load(routing.chosen, sequence >= 0, loads.shape[1])
            num_read = float(self._num_read[0 if is_of_source else 1])
            if config.sequence:
                chosen = _of_row(routing.chosen, inputs)
                value = sequence_balance(routing.scores, sequence, chosen, of_row) / num_read
                total, found[0] = total + config.sequence * value, found[0] + value.detach()
            if config.router_z:
                value = router_z(routing.logits, sequence >= 0) / num_read
                total, found[1] = total + config.router_z * value, found[1] + value.detach()
        self._loads.append(loads)
        self._penalties.append(found / len(noted))
        return total if config.sequence or config.router_z else 0.0

    def found(self) -> Routed | None:
        """What all micro-batches and ranks have found; None where the model has no experts."""
        if not self._routers:
            return None
        routers = [*self._routers.values()]
        zero = torch.zeros(len(routers), routers[0].config.num_experts, dtype=torch.int64, device=self._device)
        loads = self._world.sum_of(self._loads, zero)
        penalties = self._world.sum_of(self._penalties, zero.new_zeros(2).double())
        weights = self._config.sequence, self._config.router_z
        values = [value if weight else None for value, weight in zip(penalties, weights, strict=True)]
        return Routed(loads, *values)

    @torch.no_grad()
    def update(self, routed: Routed | None) -> None:
        """Moves the biases of routers that are trained."""
        rate = self._config.bias_rate
        if routed is None or not rate:
            return
        for router, loads in zip(self._routers.values(), routed.loads, strict=True):
            if router.bias is not None and router.weight.requires_grad:
                router.bias.copy_(moved_bias(router.bias, loads, rate))


def _num_read(batch: Batch) -> Float64[Tensor, " 2"]:
    """Positions that count in a batch, of its source and of what the head reads."""
    source = batch.inputs.source
    read = [source.inputs if source else None, batch.inputs]
    number = [0 if one is None or batch.is_idle else int((one.visibility.piece >= 0).sum()) for one in read]
    return torch.tensor(number, dtype=torch.float64)


def _sequences(inputs: Inputs, *, counts: bool) -> tuple[Int[Tensor, " N"], Int[Tensor, " M"]]:
    """The sequence of each position that is read here, and of each in its whole rows; -1: it counts nowhere."""
    seen = inputs.visibility
    root = seen.row.root()
    row = torch.arange(len(root), device=root.device)[:, None]
    whole = torch.where(root < 0, -1, root + row * (root.max() + 1)) if counts else torch.full_like(root, -1)
    mine = whole if seen.whole is None else whole[:, seen.whole.mine]
    return mine.flatten(), whole.flatten()


@torch.no_grad()
def _of_row(chosen: Int[Tensor, "N k"], inputs: Inputs) -> Int[Tensor, "M k"]:
    """What is chosen in whole rows, of which other ranks may read a part."""
    if inputs.visibility.whole is None:
        return chosen
    mine = chosen.view(len(inputs.tokens), 1, -1, chosen.shape[1]).double()
    return inputs.visibility.whole.gathered(mine).long().flatten(0, 2)
