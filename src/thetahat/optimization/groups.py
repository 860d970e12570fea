"""Which parameter is updated by which rule."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from thetahat.core.errors import ModelError
from thetahat.model.law import laws_of


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that one rule updates, by their names in the model."""

    name: str  # matrices, embeddings or vectors
    parameters: dict[str, nn.Parameter]


def group_parameters(model: nn.Module) -> list[ParameterGroup]:
    """Matrices, embeddings and vectors, in this order, as the model's modules declare them (`model/law.py`).

    Frozen parameters are in none of them; a tied weight is in one, once.
    """
    laws = laws_of(model)
    groups = {name: ParameterGroup(name, {}) for name in ("matrices", "embeddings", "vectors")}
    for name, parameter in model.named_parameters():  # each tensor once, under its first name
        if parameter.requires_grad:
            groups[laws[name].group].parameters[name] = parameter
    return list(groups.values())


def check_groups(model: nn.Module, groups: Iterable[ParameterGroup]) -> None:
    """Raises ModelError, naming the tensor, unless each trainable parameter of the model is in exactly one group."""
    homes: dict[int, str] = {}
    for group in groups:
        for name, parameter in group.parameters.items():
            if not parameter.requires_grad:
                raise ModelError(f"{name} is frozen, yet {group.name!r} would update it")
            if id(parameter) in homes:
                raise ModelError(f"{name} would be updated twice: in {homes[id(parameter)]!r} and in {group.name!r}")
            homes[id(parameter)] = group.name
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and homes.pop(id(parameter), None) is None:
            raise ModelError(f"{name} would never be updated: it is in no group")
    if homes:
        raise ModelError(f"a parameter in {next(iter(homes.values()))!r} is not one of the model's")
