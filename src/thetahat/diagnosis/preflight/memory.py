"""Whether the model can learn one batch by heart: what cannot do that cannot learn."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from thetahat.diagnosis.preflight.probe import Probe, still
from thetahat.distribution.pieces import sum_over_homes
from thetahat.model.precision import computing_in
from thetahat.objective.objective import log_likelihood
from thetahat.optimization.clip import clip_gradients
from thetahat.optimization.config import OptimizationConfig
from thetahat.optimization.optimizer import build_optimizer

SHARE = 0.5  # of what the shares of its tokens alone give
LEAST = 0.1  # nats a target, which is always enough
WARM_UP = 10  # updates


class Memorised(NamedTuple):
    """What became of one batch, in nats a target."""

    first: float
    last: float
    bound: float
    num_updates: int

    @property
    def is_learned(self) -> bool:
        """Whether it was learned by heart."""
        return self.last <= self.bound


def memorise(probe: Probe, optimization: OptimizationConfig, most: int) -> Memorised:
    r"""Makes up to `most` updates on the batch of the probe, until it costs half of what its shares of tokens give.

    The bound is $\max(H_1 / 2,\ 0.1)$ with $H_1 = -\sum_t p_t \ln p_t$ of the shares p of the targets: one that sees no
    context does not go below $H_1$. Updates are at the peak of the schedule behind a warm-up of 10, with a new state of
    the optimizer, without dropout. Parameters and random numbers are left as they were, to the bit.
    """
    batch, bound = probe.batch.to(probe.device), max(SHARE * entropy(probe), LEAST)
    optimizer, parameters = build_optimizer(probe.model, optimization, probe.growth), list(probe.model.parameters())
    costs = list[float]()
    with _undone(probe), still(probe):
        for update in range(most + 1):
            optimizer.zero_grad()
            with computing_in(probe.dtype, probe.device):
                total = log_likelihood(probe.model, batch, probe.kernel)
            costs.append(-float(total.mean().detach()))
            if costs[-1] <= bound or update == most or not math.isfinite(costs[-1]):
                break
            (-total.mean()).backward()
            sum_over_homes(parameters)
            clip_gradients(parameters, optimization.clip)
            optimizer.step(min(1.0, (update + 1) / WARM_UP))
    return Memorised(costs[0], costs[-1], bound, len(costs) - 1)


def entropy(probe: Probe) -> float:
    """Nats of a target of the batch, by the shares that the targets have in it."""
    targets = probe.batch.targets[probe.batch.weights != 0]
    _, counts = targets.unique(return_counts=True)
    shares = counts.double() / counts.sum()
    return -float((shares * shares.log()).sum())


@contextmanager
def _undone(probe: Probe) -> Generator[None]:
    """Parameters, buffers, gradients and random numbers are afterwards what they were."""
    devices = [probe.device] if probe.device.type == "cuda" else []
    before = {name: tensor.clone() for name, tensor in probe.model.state_dict().items()}
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            probe.model.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name, tensor in probe.model.state_dict().items():
                    tensor.copy_(before[name])
