"""What a step adds for tokens behind the next one, apart from the likelihood: multi-token prediction."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor

from thetahat.core.batch import Batch
from thetahat.distribution.world import Ranks
from thetahat.model.build import LanguageModel
from thetahat.model.decoder import Decoder
from thetahat.objective.config import ObjectiveConfig
from thetahat.objective.future import Ahead
from thetahat.objective.log_prob import Kernel
from thetahat.objective.objective import Model


@dataclass(frozen=True, slots=True)
class Foreseen:
    """How likely a step found its targets 2, 3, ... tokens ahead, over all of its micro-batches and ranks."""

    sums: Float64[Tensor, "n 2"]  # of each distance, sums of w log p in nats, and of w

    def to_dict(self) -> dict[str, float]:
        """The numbers of a line of metrics.jsonl: nats a target; none where a distance has no target."""
        each = enumerate(self.sums.tolist(), start=2)
        return {f"log_likelihood_per_token_{n}_ahead": value / weight for n, (value, weight) in each if weight}


@final
class Foresight:
    r"""The further targets of one step; of a model without blocks for them, or without weights, it does nothing.

    What is maximised gets $\tfrac{1}{Z} \sum_n \lambda_n \sum_i w_i \log \Pr_\theta(t_i \mid \mathrm{visible}_{i-n+1})$
    with the weights $\lambda_n$ of `objective.future`. Z is that of the likelihood: the weight of the global batch.
    """

    def __init__(self, model: LanguageModel, objective: ObjectiveConfig, kernel: Kernel, world: Ranks) -> None:
        self._weights = torch.tensor(objective.future, dtype=torch.float64, device=model.device)
        self._kernel, self._world = kernel, world
        self._ahead = Ahead(model) if isinstance(model, Decoder) and any(objective.future) else None
        self._found: list[Float64[Tensor, "n 2"]] = []  # one a micro-batch
        self.model: Model = self._ahead or model  # the one that is asked for the next token

    def gain(self, batch: Batch) -> Tensor | float:
        """What is added to the log-likelihood of the micro-batch that was read last, before Z divides both."""
        if self._ahead is None:
            return 0.0
        values = self._ahead.log_likelihoods(batch, self._kernel)
        weights = torch.stack([one.weight.sum(dtype=torch.float64) for one in batch.future])
        self._found.append(torch.stack([values.detach(), weights], dim=1))
        return (self._weights * values).sum()

    def found(self) -> Foreseen | None:
        """What all micro-batches and ranks have found; None where nothing was asked."""
        if self._ahead is None:
            return None
        return Foreseen(self._world.sum_of(self._found, self._weights.new_zeros(len(self._weights), 2)))
