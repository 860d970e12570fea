"""A stage: the layers of a model that this rank has, and how it reads with the ranks that have the others.

The parameters of other stages have no memory here. Outside of a step all stages read a batch together, one after the
other, and all get what was found: log-probabilities, or logits where these are asked for. In a step they work at the
same time, each on another micro-batch, and only the last one computes log-probabilities.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast, final

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from thetahat.core.absent import leave_out
from thetahat.core.batch import Inputs
from thetahat.distribution.exchange import join, largest
from thetahat.distribution.mesh import Stages
from thetahat.distribution.pieces import GROUP, STAGE, Home
from thetahat.distribution.pipeline.schedule import Pass, groups_of, one_forward_one_backward, seed_of_group
from thetahat.distribution.pipeline.ways import Ways, received, sent
from thetahat.distribution.world import MicroBatch, Turn, backward

ENDS = frozenset({"norm", "transform", "head"})  # modules behind the last layer
SHARED = frozenset({"relative_embedding"})  # that every layer reads


def divide(model: nn.Module, stages: Stages, dtype: torch.dtype) -> dict[str, Home]:
    """Leaves the layers of other stages out of a decoder, whose parameters must have no memory yet.

    `dtype` is that of the parameters, and states are exchanged in it. Returns the home of each parameter, for `settle`.
    """
    stage = Stage(model, stages, dtype)
    setattr(model, GROUP, stages.group)
    setattr(model, STAGE, stage)
    return stage.homes()


@final
class Stage:
    """Has each `stages.share.size`-th group of layers of a decoder, beginning with that of its own number."""

    def __init__(self, model: Any, stages: Stages, dtype: torch.dtype) -> None:
        self._model, self._stages, self._dtype, self._ways = model, stages, dtype, Ways(stages, dtype)
        self._num_groups = stages.share.size * stages.turns
        self.layers = groups_of(model.num_layers, self._num_groups)
        self._turn: int | None = None  # the group of layers that reads in a step; None: all read, one after the other
        self._vocabulary = Vocabulary(model.head, stages, dtype)
        model.hidden = self.hidden
        model.head.forward, model.head.part = self._head, self._vocabulary

    def homes(self) -> dict[str, Home]:
        """The home of each parameter; those that are elsewhere are left out here."""
        of: dict[int, set[int]] = {}  # the stages that read it
        rank, size = self._stages.share
        at = {layer: group % size for group, layers in enumerate(self.layers) for layer in layers}
        for name, module in cast(nn.Module, self._model).named_children():
            if name == "blocks":
                read = [(block, {at[layer]}) for layer, block in enumerate(cast(nn.ModuleList, module))]
            else:
                read = [(module, {*range(size)} if name in SHARED else {size - 1} if name in ENDS else {0})]
            for one, ranks in read:
                for parameter in one.parameters():
                    of.setdefault(id(parameter), set()).update(ranks)
        homes: dict[str, Home] = {}
        for name, parameter in cast(nn.Module, self._model).named_parameters():
            ranks = tuple(sorted(of[id(parameter)]))
            sharing = None if len(ranks) == 1 else self._stages.group if len(ranks) == size else self._stages.ends
            homes[name] = Home(ranks, rank, self._stages.group, sharing)
            if rank not in ranks:
                parameter.data = parameter.data.to(self._dtype)
                leave_out(parameter)
        return homes

    def hidden(self, inputs: Inputs, cache: Any = None) -> Float[Tensor, "B T D"]:
        """Of the last stage what the head reads; of another one states of no width, behind which is the way back."""
        seed = torch.initial_seed()
        x = torch.zeros(0, device=inputs.tokens.device, requires_grad=torch.is_grad_enabled())
        for turn in range(self._stages.turns) if self._turn is None else [self._turn]:
            group = turn * self._stages.share.size + self._stages.share.rank
            if group and self._model.training and self._model.config.dropout > 0:
                torch.manual_seed(seed_of_group(seed, group))  # each group draws its own
            x = self._through(group, x, inputs, cache)
        if cache is not None:
            cache.add(inputs.position)
        return x

    def _through(self, group: int, before: Tensor, inputs: Inputs, cache: Any) -> Tensor:
        model, tokens = self._model, inputs.tokens
        if group == 0:
            x = model.begin(model.embedding(tokens), inputs, cache)
        else:
            x = received(before, (*tokens.shape, model.config.width), tokens.device, self._ways)
        x = model.through(self.layers[group], x, inputs, None, cache)
        return model.finished(model.norm(x)) if group == self._num_groups - 1 else sent(x, before, self._ways)

    def _head(
        self, hidden: Float[Tensor, "*axes D"], tokens: slice | None = None, *, everywhere: bool = True
    ) -> Float[Tensor, "*axes V"]:
        """On every stage; in a step where the last layers have read, and else of no state."""
        if self._turn is None and everywhere:
            return self._vocabulary.everywhere(hidden, tokens)
        is_here = self._turn is None or self._is_last(self._turn)
        return self._vocabulary.read(hidden, tokens) if is_here else hidden.sum(-1, keepdim=True)

    def _is_last(self, turn: int) -> bool:
        return self._vocabulary.is_here and turn == self._stages.turns - 1

    def turns(self, batches: Iterable[MicroBatch]) -> Iterator[Turn]:
        """The passes of this stage. Targets are of those through the last layers; the others have none."""
        batches, begun = list(batches), dict[Pass, Tensor]()
        schedule = one_forward_one_backward(len(batches), *self._stages.share, self._stages.turns)
        waiting = deque(schedule.backwards)

        def back() -> None:
            one = waiting.popleft()
            self._turn = one.turn  # for what is computed again
            backward(begun.pop(one), self._model, is_last=not waiting)

        self._model.head.part = None
        try:
            for number, one in enumerate(schedule.forwards):
                self._turn = one.turn
                micro = batches[one.batch]
                if not self._is_last(one.turn):
                    micro = replace(micro, batch=micro.batch.idle())
                yield Turn(micro, partial(begun.__setitem__, one), is_told=one.turn == self._stages.turns - 1)
                if number >= schedule.num_ahead:
                    back()
            while waiting:
                back()
        finally:
            self._turn, self._model.head.part = None, self._vocabulary


@final
class Vocabulary:
    """The logits of the last stage, for all stages."""

    def __init__(self, head: nn.Module, stages: Stages, dtype: torch.dtype) -> None:
        self.read = head.forward
        self._head, self._group, self._last, self._dtype = head, stages.group, stages.share.size - 1, dtype
        self.is_here = stages.share.rank == self._last
        self.most = cast(int, head.num_outputs)
        self.first = 0 if self.is_here else self.most

    def logits(self, hidden: Float[Tensor, "*axes D"], tokens: slice | None = None) -> Float[Tensor, "*axes v"]:
        """On the last stage of all tokens; on the others of none."""
        return self._head(hidden, tokens, everywhere=False) if self.is_here else hidden  # called, so that hooks fire

    def everywhere(self, hidden: Float[Tensor, "*axes D"], tokens: slice | None = None) -> Float[Tensor, "*axes V"]:
        """The same on all stages, without a gradient."""
        if self.is_here:
            logits = self.read(hidden, tokens).detach().to(self._dtype).contiguous()
        else:
            number = len(range(self.most)[tokens or slice(None)])
            logits = torch.empty(*hidden.shape[:-1], number, dtype=self._dtype, device=hidden.device)
        dist.broadcast(logits, group=self._group, group_src=self._last)
        return logits

    def sum(self, values: Tensor) -> Tensor:
        """The sum over stages; its gradient goes to each as it is."""
        return join(values, self._group)

    def largest(self, values: Tensor) -> Tensor:
        """The largest over stages, without a gradient."""
        return largest(values, self._group)
