"""What the rules of an update have in common: groups of parameters, and a state of each parameter."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

Group = dict[str, Any]  # "params" and settings of theirs, "lr" among them


class Update(ABC):
    """A rule that updates parameters in groups, with the attributes of `torch.optim.Optimizer`.

    It is no subclass: torch's imports the compiler as soon as one is made, which takes some two seconds of a start.
    """

    def __init__(self, groups: Sequence[Group], settings: Mapping[str, Any]) -> None:
        self.param_groups: list[Group] = [{**settings, **group} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @abstractmethod
    def step(self) -> None:
        """Updates every parameter that has a gradient."""

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Deletes the gradients, or sets them to 0."""
        for parameter in (one for group in self.param_groups for one in group["params"]):
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad = parameter.grad.detach().zero_()


def moved(group: Group) -> tuple[list[nn.Parameter], list[Tensor]]:
    """The parameters of a group that have a gradient, and these."""
    parameters = [one for one in group["params"] if one.grad is not None]
    return parameters, [one.grad for one in parameters]
