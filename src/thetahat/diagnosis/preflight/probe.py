"""What the checks look at, and how they ask the model."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetahat.core.batch import Batch, Inputs, Source
from thetahat.core.work.eager import eagerly
from thetahat.distribution.pieces import reading
from thetahat.model.build import LanguageModel
from thetahat.model.config import Dtype
from thetahat.model.precision import computing_in
from thetahat.model.transfer.rule import SAME, Growth
from thetahat.objective.config import Variant
from thetahat.objective.log_prob import Kernel
from thetahat.optimization.optimizer import Optimizer


@dataclass(frozen=True)
class Probe:
    """A model before its first step, its optimizer, and a few rows of its first batch."""

    model: LanguageModel
    optimizer: Optimizer
    kernel: Kernel
    batch: Batch  # on the host
    factorization: Variant
    dtype: Dtype
    device: torch.device
    is_drawn: bool  # the parameters were drawn from their laws, not taken from another model
    trained: frozenset[str] | None = None  # names of parameters that the config wants trained; None: not known
    growth: Growth = SAME  # from the shape at which learning rates were chosen

    @cached_property
    def hidden(self) -> Float[Tensor, "B T D"]:
        """What the head reads of the batch as it is, one state a position."""
        return self._hidden(self.batch.inputs)

    @cached_property
    def before(self) -> Float[Tensor, "B T"]:
        """The log-probabilities of the batch as it is."""
        return self._log_probs(self.hidden)

    def log_probs(self, inputs: Inputs) -> Float[Tensor, "B T"]:
        """The log-probability of every target of the batch where the model reads `inputs`."""
        return self._log_probs(self._hidden(inputs))

    @torch.no_grad()
    def _hidden(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        with computing_in(self.dtype, self.device):
            return self.model.hidden(inputs.map(lambda tensor: tensor.to(self.device)))

    @torch.no_grad()
    def _log_probs(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
        targets = self.batch.targets.to(self.device)
        with computing_in(self.dtype, self.device):
            told = self.kernel(hidden.flatten(0, 1), self.model.head, targets.flatten())
        return told.log_prob.view_as(targets).cpu()

    def with_others(self, where: Bool[Tensor, "B T"], source: Bool[Tensor, "B S"] | None = None) -> Inputs:
        """What the batch reads, with other tokens where it is said; `source` is of what an encoder reads."""
        inputs = self.batch.inputs
        changed = replace(inputs, tokens=self._others(inputs.tokens, where))
        if inputs.source is None or source is None:
            return changed
        read = inputs.source.inputs
        return replace(
            changed, source=Source(replace(read, tokens=self._others(read.tokens, source)), inputs.source.piece)
        )

    def _others(self, tokens: Int[Tensor, "B T"], where: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        return torch.where(where, (tokens + 1) % self.model.vocab_size, tokens)


@contextmanager
def still(probe: Probe) -> Generator[None]:
    """Without dropout, and without compiling anything for the shapes of a probe."""
    was_training = probe.model.training
    probe.model.eval()
    try:
        with eagerly(probe.device), reading(probe.model):
            yield
    finally:
        probe.model.train(was_training)
