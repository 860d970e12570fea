"""Options that belong together are one frozen value: the command takes it as one parameter, a user types its fields."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer should see it: in place of each parameter that is a dataclass stand the fields of that."""
    hints = get_type_hints(command)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind) and isinstance(kind, type)}
    parameters: list[Parameter] = []
    for parameter in signature(command).parameters.values():
        parameters += _options(groups[parameter.name]) if parameter.name in groups else [parameter]

    @wraps(command)
    def run(**typed: Any) -> None:
        for name, kind in groups.items():
            typed[name] = kind(**{field.name: typed.pop(field.name) for field in fields(kind)})
        command(**typed)

    of_groups = {name: hint for kind in groups.values() for name, hint in get_type_hints(kind).items()}
    run.__annotations__ = {parameter.name: (of_groups | hints)[parameter.name] for parameter in parameters}
    run.__signature__ = Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    return run


def _options(kind: type) -> list[Parameter]:
    """A parameter for each field, with the typer.Option that is its default."""
    hints = get_type_hints(kind)
    return [
        Parameter(field.name, Parameter.POSITIONAL_OR_KEYWORD, default=field.default, annotation=hints[field.name])
        for field in fields(kind)
    ]
