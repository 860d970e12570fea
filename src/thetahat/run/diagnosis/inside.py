"""What is measured inside the model from time to time: updates, attention, and whether ranks are alike."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from thetahat.core.batch import Batch
from thetahat.diagnosis.alarms.after import Inner
from thetahat.diagnosis.signals.probe import block_names, inside, layers_of
from thetahat.diagnosis.signals.regions import Regions
from thetahat.diagnosis.signals.updates import NUM_VALUES, joined, measured, samples, updates_of
from thetahat.distribution.pieces import home_of, is_piece, is_sharded, piece, reading
from thetahat.distribution.world import World
from thetahat.optimization.foreach import together
from thetahat.run.state import State


@final
class Inside:
    """Measures every `diagnosis.every` steps; the host waits for the device then, as it does to log the step."""

    def __init__(self, state: State, regions: Regions, world: World) -> None:
        self._state, self._world = state, world
        self._names = [name for rule in state.optimizer.rules for name in rule.group.parameters]
        of = dict(zip((name for name, _ in state.model.named_parameters()), regions.of, strict=True))
        self._regions = [of[name] for name in self._names]
        self._blocks = block_names(state.model)
        self._before: list[Tensor] | None = None

    def begin(self, step: int) -> None:
        """Before the update of a step."""
        every = self._state.config.diagnosis.every
        self._before = samples(self._state.optimizer) if every and step % every == 0 else None

    def end(self, batches: Sequence[Batch]) -> Inner | None:
        """After it; None where nothing was due."""
        if self._before is None:
            return None
        state, world = self._state, self._world
        rows = measured(state.optimizer, self._before)
        self._before = None
        rank, size = world.product
        layers = torch.zeros(size, len(self._blocks), 3, dtype=torch.float64, device=state.device)
        if world.is_first or is_sharded(state.model):  # where ranks hold it together, all read
            with reading(state.model):
                found = inside(state.model, batches[0].whole or batches[0], state.config.dtype, state.device)
            if world.layout.reader.rank == 0:
                layers[rank] = found  # of some of the heads
        layers = world.sum_of_all(layers)
        layers = torch.cat([layers[:, :, :1].amax(0), layers[:, :, 1:].mean(0)], 1)
        values: list[float] = torch.cat([rows.flatten(), layers.flatten()]).tolist()
        cut = NUM_VALUES * len(self._names)
        updates = updates_of([values[place : place + NUM_VALUES] for place in range(0, cut, NUM_VALUES)])
        looked = [values[place : place + 3] for place in range(cut, len(values), 3)]
        return Inner(
            state.step,
            state.config.diagnosis.every,
            dict(zip(self._names, updates, strict=True)),
            joined(self._regions, updates, [one.numel() for one in self._parameters()]),
            layers_of(self._blocks, looked),
            self._diverged(),
        )

    def _parameters(self) -> list[Tensor]:
        return [one.detach() for rule in self._state.optimizer.rules for one in rule.group.parameters.values()]

    def _diverged(self) -> tuple[int, str] | None:
        """The first rank whose parameters are not, bit for bit, those of rank 0, and the first such parameter.

        Pieces are compared with those of the same place in the first replica; of a pipeline, with those of the first
        stage that has the parameter.
        """
        world = self._world
        if world.size == 1:
            return None
        parameters = self._parameters()
        sums = together([checksum(piece(one)) for one in parameters])
        slots = torch.zeros(world.size, len(sums), dtype=torch.int64, device=sums.device)
        slots[world.rank] = sums
        everyones = world.sum_of_all(slots)
        is_divided = torch.tensor([is_piece(one) for one in parameters], device=sums.device)
        is_divided = world.sum_of_stages(is_divided.long()) > 0
        stages, rank = world.layout.stages, torch.arange(world.size, device=sums.device)[:, None]
        of_stage = world.size // (stages.share.size if stages else 1)
        homes = [home.stages if (home := home_of(one)) else (0,) for one in parameters]
        first = torch.tensor([home[0] for home in homes], device=sums.device) * of_stage
        twins = first + torch.where(is_divided, rank % of_stage % (world.num_shards * world.product.size), 0)
        has = torch.tensor([[stage in home for home in homes] for stage in range(world.size // of_stage)])
        differs = (everyones != everyones.gather(0, twins)) & has.to(sums.device)[rank[:, 0] // of_stage]
        found = differs.nonzero().tolist()
        return (found[0][0], self._names[found[0][1]]) if found else None


def checksum(tensor: Tensor) -> Int[Tensor, ""]:
    """A sum of the bits, as integers: another one for any other bit, and the same in every order."""
    sizes = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    return tensor.contiguous().view(sizes[tensor.element_size()]).sum(dtype=torch.int64)
