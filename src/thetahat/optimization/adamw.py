"""AdamW by torch's kernel, with its state made before the first update."""

from collections.abc import Iterable, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from thetahat.core.absent import is_absent
from thetahat.optimization.config import AdamW
from thetahat.optimization.update import Group, Update, moved


@final
class FusedAdamW(Update):
    """The update of `build_adamw`, a call of torch's kernel for each group."""

    def __init__(self, groups: Sequence[Group], config: AdamW) -> None:
        betas = (config.beta1, config.beta2)
        rest = {"eps": config.epsilon, "weight_decay": config.weight_decay}
        super().__init__(groups, {"lr": config.learning_rate, "betas": betas, **rest})

    @torch.no_grad()
    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            parameters, gradients = moved(group)
            mean, square, count = (self._slots(parameters, name) for name in ("exp_avg", "exp_avg_sq", "step"))
            beta1, beta2 = group["betas"]
            adamw(
                [*parameters],
                gradients,
                mean,
                square,
                [],
                count,
                fused=True,
                amsgrad=False,
                maximize=False,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
            )

    def _slots(self, parameters: Sequence[nn.Parameter], name: str) -> list[Tensor]:
        return [self.state[parameter][name] for parameter in parameters]


def build_adamw(parameters: Iterable[nn.Parameter], config: AdamW) -> FusedAdamW:
    r"""The rule of AdamW, with its state already made.

    $\theta \leftarrow (1 - \eta\lambda)\,\theta - \eta\, \hat m / (\sqrt{\hat v} + \epsilon)$, where $\hat m$ and
    $\hat v$ are the running means of the gradient (`beta1`) and of its square (`beta2`), corrected for their start
    at zero.
    Fused: one kernel for all tensors, on the CPU and on CUDA. Their tensors are made here and not at the first update,
    so that a checkpoint of step 0 is like any other.

    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, arXiv 1711.05101.
    """
    parameters = list(parameters)
    optimizer = FusedAdamW(apart(parameters), config)
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }
    return optimizer


def apart(parameters: Sequence[nn.Parameter]) -> list[Group]:
    """Groups: whole parameters, and pieces of each mesh apart, since one kernel does not take both.

    What another stage of a pipeline has is in none of them. There is at least one group.
    """
    kinds: dict[object, list[nn.Parameter]] = {None: []}
    for one in (one for one in parameters if not is_absent(one)):
        kinds.setdefault(getattr(one, "device_mesh", None), []).append(one)
    return [{"params": kind} for kind in kinds.values() if kind] or [{"params": []}]
