"""Which parameter is updated by which rule."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from thetahat.core.errors import ModelError


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that one rule updates, by the names that they have in the model."""

    name: str  # matrices, embeddings or vectors
    parameters: dict[str, nn.Parameter]


def group_parameters(model: nn.Module) -> list[Group]:
    """Matrices, embeddings and vectors, in this order; frozen parameters are in none, a tied weight is there once.

    Embeddings are the tables that a token id picks from, and the head: a row of theirs is a token, not a direction of a
    linear map. Vectors are gains and biases. Everything else has two dimensions, or more when matrices are stacked.
    """
    groups = {name: Group(name, {}) for name in ("matrices", "embeddings", "vectors")}
    for name, parameter in model.named_parameters():  # each tensor once, under its first name
        if parameter.requires_grad:
            groups[_kind(name, parameter)].parameters[name] = parameter
    return list(groups.values())


def _kind(name: str, parameter: nn.Parameter) -> str:
    if parameter.ndim < 2:
        return "vectors"
    is_embedding = any(module == "head" or module.endswith("embedding") for module in name.split(".")[:-1])
    return "embeddings" if is_embedding else "matrices"


def check_groups(model: nn.Module, groups: Iterable[Group]) -> None:
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
