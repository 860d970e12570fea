"""torch's AdamW, with its state made before the first update."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from thetahat.core.absent import is_absent
from thetahat.optimization.config import AdamW


def build_adamw(parameters: Iterable[nn.Parameter], config: AdamW) -> torch.optim.AdamW:
    r"""The torch optimizer of AdamW, with its state already made.

    $\theta \leftarrow (1 - \eta\lambda)\,\theta - \eta\, \hat m / (\sqrt{\hat v} + \epsilon)$, where $\hat m$ and
    $\hat v$ are the running means of the gradient (`beta1`) and of its square (`beta2`), corrected for their start
    at zero.
    Fused: one kernel for all tensors, on the CPU and on CUDA. Their tensors are made here and not at the first update,
    so that a checkpoint of step 0 is like any other.

    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, arXiv 1711.05101.
    """
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(
        apart(parameters),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }
    return optimizer


def apart(parameters: Sequence[nn.Parameter]) -> list[dict[str, list[nn.Parameter]]]:
    """Groups of torch's: whole parameters, and pieces of each mesh apart, since one kernel does not take both.

    What another stage of a pipeline has is in none of them. There is at least one group.
    """
    kinds: dict[object, list[nn.Parameter]] = {None: []}
    for one in (one for one in parameters if not is_absent(one)):
        kinds.setdefault(getattr(one, "device_mesh", None), []).append(one)
    return [{"params": kind} for kind in kinds.values() if kind] or [{"params": []}]
