"""What there is to choose from beside recipes: chat templates, optimizers and their schedules, families of models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from thetahat.core.schema import choice, fields, tag, variants
from thetahat.data.chat.template import TEMPLATES
from thetahat.optimization.config import OptimizationConfig


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template that comes along."""

    name: str  # data.chat.template=NAME
    special_tokens: tuple[str, ...]
    ends_turn: tuple[str, ...]  # of the assistant
    digest: str


@dataclass(frozen=True, slots=True)
class Rule:
    """An update rule or a schedule: one value of `kind`."""

    name: str
    keys: tuple[str, ...]  # KEY=NAME chooses it, for each of these
    what: str
    settings: dict[str, Any]  # with their defaults; None: it must be given


@dataclass(frozen=True, slots=True)
class ListedFamily:
    """A family of models of others that is read and written."""

    model_type: str
    kind: str
    architectures: tuple[str, ...]


def list_templates() -> list[Template]:
    """The chat templates by name."""
    return [Template(one.name, one.special_tokens, one.ends_turn, one.digest) for one in TEMPLATES.values()]


def list_optimizers() -> list[Rule]:
    """The update rules, then the schedules."""
    found: dict[str, Rule] = {}
    for name, hint in fields(OptimizationConfig).items():
        for kind in variants(hint):
            keys = (*(found[tag(kind)].keys if tag(kind) in found else ()), f"optimization.{name}.kind")
            what = choice(kind).partition(": ")[2]
            found[tag(kind)] = Rule(tag(kind), keys, what, _settings(kind))
    return sorted(found.values(), key=lambda rule: "schedule" in rule.keys[0])


def _settings(kind: type[msgspec.Struct]) -> dict[str, Any]:
    defaults = {field.encode_name: field.default for field in msgspec.structs.fields(kind)}
    return {name: None if default is msgspec.NODEFAULT else default for name, default in defaults.items()}


def list_families() -> Sequence[ListedFamily]:
    """The families of transformers, by the model_type of their config.json."""
    from thetahat.interop.families import FAMILIES  # needs torch, which templates and optimizers do not

    return [ListedFamily(one.model_type, tag(one.kind), one.architectures) for one in FAMILIES]
