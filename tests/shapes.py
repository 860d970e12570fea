"""Shapes and types in signatures are checked wherever a function of the package is called.

jaxtyping's hook decorates every function. Its own decorator binds all arguments to their names and checks them twice,
of whatever function, which more than doubled the time of a run; shapes need no more than letters that mean the same
size within one call, and signatures without shapes need not even that.
"""

import dataclasses
import functools
import inspect
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import beartype


def check_shapes():
    """To be called before the package is imported: the hook looks the decorator up by its name."""
    jaxtyping.jaxtyped = lambda *, typechecker: checked


def checked(defined):
    """The function, whose arguments and result are checked; of a dataclass, its `__init__`."""
    if inspect.isclass(defined):
        if dataclasses.is_dataclass(defined) and "__init__" in vars(defined):
            defined.__init__ = checked(defined.__init__)
        return defined
    hints = defined.__annotations__
    if not hints:
        return defined
    defined.__annotations__ = {name: resolved(hint, defined) for name, hint in hints.items()}
    typed = beartype(defined)
    is_shaped = any(map(mentions_a_shape, defined.__annotations__.values()))
    defined.__annotations__ = hints
    if not is_shaped:
        return typed

    @functools.wraps(defined)
    def shaped(*arguments, **named):
        with CONTEXT:
            return typed(*arguments, **named)

    return shaped


CONTEXT = jaxtyping.jaxtyped("context")
"""Within it, a letter means one size; it holds nothing itself, so that one is enough."""


def resolved(hint, defined):
    """With what names in quotes mean here; anything, where one is defined later or for the type checker only."""

    def holder(value): ...

    holder.__annotations__ = {"value": hint}
    try:
        return get_type_hints(holder, defined.__globals__, include_extras=True)["value"]
    except (NameError, AttributeError, TypeError):
        return Any


def mentions_a_shape(hint):
    if isinstance(hint, list | tuple):  # the arguments of a Callable
        return any(map(mentions_a_shape, hint))
    is_shape = inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return is_shape or any(map(mentions_a_shape, get_args(hint)))
