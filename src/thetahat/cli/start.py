"""Commands that start quickly: a flag that was not typed is False, and needs no parser of values.

typer 0.29 makes one by pydantic wherever a value is not a bool, which takes a third of a short command. Of flags that
nobody typed only --help is one: its default is None.
"""

from typing import Any

from typer.core import TyperCommand, TyperGroup


def _is_false_by_default(option: Any) -> Any:
    if option is not None and option.default is None:
        option.default = False
    return option


class Command(TyperCommand):
    """A command."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option --help."""
        return _is_false_by_default(super().get_help_option(ctx))


class Commands(TyperGroup):
    """Commands under one name."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option --help."""
        return _is_false_by_default(super().get_help_option(ctx))
