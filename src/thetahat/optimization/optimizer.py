"""The update of a whole model: a rule a group, one learning-rate factor, one flat state dictionary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from thetahat.core.errors import ModelError
from thetahat.distribution.pieces import fill
from thetahat.model.law import Law, laws_of
from thetahat.model.transfer.rule import SAME, Growth, factors
from thetahat.optimization.adamw import build_adamw
from thetahat.optimization.config import AdamW, Muon as MuonConfig, OptimizationConfig
from thetahat.optimization.groups import ParameterGroup, check_groups, group_parameters
from thetahat.optimization.muon import Muon
from thetahat.optimization.update import Update


@dataclass(frozen=True, slots=True)
class Rule:
    """A group, the torch optimizer that updates it, and its learning rate at the peak of the schedule."""

    group: ParameterGroup
    optimizer: Update | torch.optim.Optimizer  # the second: one of your own
    learning_rate: float


@final
class Optimizer:
    """Updates every trainable parameter of a model, each by the rule of its group."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)

    def step(self, factor: float) -> None:
        """Updates with each group's own learning rate times `factor`, which comes from the schedule."""
        for rule in self.rules:
            for group in rule.optimizer.param_groups:
                group["lr"] = rule.learning_rate * factor
            rule.optimizer.step()

    def zero_grad(self) -> None:
        """Deletes the gradients."""
        for rule in self.rules:
            rule.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state as `<parameter name>/<slot>`, not copied: the next step changes them."""
        return {name: slot.contiguous() for name, slot in self._slots().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `state` returned; raises ModelError, and changes nothing, if names or shapes differ."""
        slots = self._slots()
        _check_state(slots, state)
        for name, slot in slots.items():
            fill(slot, state[name])

    def adopt_state(self, state: Mapping[str, Tensor]) -> list[str]:
        """Loads what fits of the state of another optimizer, and returns the parameters that begin with a new state.

        That of a parameter is taken over as a whole, converted to its dtype, where the other optimizer kept the same
        slots of the same shapes for it.
        """
        of_parameter: dict[str, dict[str, Tensor]] = {}
        for name, slot in self._slots().items():
            of_parameter.setdefault(name.rpartition("/")[0], {})[name] = slot
        anew: list[str] = []
        for parameter, slots in of_parameter.items():
            theirs = {name for name in state if name.rpartition("/")[0] == parameter}
            if theirs != slots.keys() or any(state[name].shape != slot.shape for name, slot in slots.items()):
                anew.append(parameter)
                continue
            for name, slot in slots.items():
                fill(slot, state[name])
        return anew

    def _slots(self) -> dict[str, Tensor]:
        return {
            f"{name}/{slot}": tensor
            for rule in self.rules
            for name, parameter in rule.group.parameters.items()
            for slot, tensor in rule.optimizer.state[parameter].items()
        }


def build_optimizer(model: nn.Module, config: OptimizationConfig, growth: Growth = SAME) -> Optimizer:
    """The optimizer of a model's trainable parameters; of one that has grown, by the factors of `model/transfer`."""
    groups = group_parameters(model)
    check_groups(model, groups)
    rules = {"matrices": config.matrices, "embeddings": config.embeddings, "vectors": config.vectors}
    laws = laws_of(model)
    return Optimizer(
        [
            _build_rule(part, scaled)
            for group in groups
            for part, scaled in _divided(group, rules[group.name], laws, growth)
        ]
    )


def _divided(
    group: ParameterGroup, config: MuonConfig | AdamW, laws: Mapping[str, Law], growth: Growth
) -> list[tuple[ParameterGroup, MuonConfig | AdamW]]:
    """The parameters of a group that share factors, each with the rule that has them; without growth, all of them."""
    parts: dict[MuonConfig | AdamW, dict[str, nn.Parameter]] = {}
    for name, parameter in group.parameters.items():
        scaled = _scaled(config, name, laws[name], growth)
        parts.setdefault(scaled, {})[name] = parameter
    return [(ParameterGroup(group.name, parameters), scaled) for scaled, parameters in parts.items()]


def _scaled(config: MuonConfig | AdamW, name: str, law: Law, growth: Growth) -> MuonConfig | AdamW:
    found = factors(name, law, growth, config.scale if isinstance(config, MuonConfig) else "adamw")
    rates = {"learning_rate": config.learning_rate * found.rate, "weight_decay": config.weight_decay / found.rate}
    if isinstance(config, MuonConfig):
        return replace(config, **rates)
    return replace(config, **rates, epsilon=config.epsilon * found.epsilon)


def _build_rule(group: ParameterGroup, config: MuonConfig | AdamW) -> Rule:
    match config:
        case MuonConfig():
            return Rule(group, Muon(group.parameters.values(), config), config.learning_rate)
        case AdamW():
            return Rule(group, build_adamw(group.parameters.values(), config), config.learning_rate)


def _check_state(slots: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    if missing := [name for name in slots if name not in state]:
        raise ModelError(f"the optimizer's state lacks {_first(missing)}")
    if unexpected := [name for name in state if name not in slots]:
        raise ModelError(f"the optimizer's state has {_first(unexpected)}, which this model and config do not have")
    for name, slot in slots.items():
        came, wanted = _form(state[name]), _form(slot)
        if came != wanted:
            raise ModelError(f"the optimizer's state {name} is {came} where {wanted} is needed")


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
