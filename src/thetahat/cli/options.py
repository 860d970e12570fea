"""Options that belong together are the fields of one frozen value, which a command makes of what was typed."""

from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, signature
from typing import Any, TypeVar, get_type_hints

LAST = ("quiet", "json")  # of the options in the help of a command
Value = TypeVar("Value")
Command = TypeVar("Command", bound=Callable[..., None])


def options_of(*kinds: type) -> Callable[[Command], Command]:
    """Shows typer, in place of the `**typed` of a command, the fields of these dataclasses, each with its Option.

    Nothing is wrapped around the command: it makes the values itself, by `typed_as`.
    """
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    expanded = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        for kind in kinds
        for field in fields(kind)
    ]

    def shown(command: Command) -> Command:
        own = [one for one in signature(command).parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        named = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in (*own, *expanded)]
        named.sort(key=lambda one: one.name in LAST)
        command.__annotations__ = command.__annotations__ | hints
        command.__signature__ = signature(command).replace(parameters=named)  # pyright: ignore
        return command

    return shown


def typed_as(kind: type[Value], typed: dict[str, Any]) -> Value:
    """The value with what was typed for each of its fields."""
    return kind(**{field.name: typed[field.name] for field in fields(kind)})  # pyright: ignore[reportArgumentType]
