"""What a config may contain, read off its types: keys, variants, and the values that each key takes."""

import types
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    type(None): "none",
    list: "a list",
    tuple: "a list",
    dict: "a table",
}


def alternatives(hint: Any) -> list[Any]:
    """The types that a value may have, with unions opened and annotations taken off."""
    if get_origin(hint) is Annotated:
        return alternatives(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [kind for argument in get_args(hint) for kind in alternatives(argument)]
    return [hint]


def variants(hint: Any) -> list[type[msgspec.Struct]]:
    """The Structs among the alternatives."""
    return [kind for kind in alternatives(hint) if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]


def tag(variant: type[msgspec.Struct]) -> str:
    """The `kind` by which a variant is chosen, empty where there is no choice."""
    return str(variant.__struct_config__.tag or "")


def fields(hint: Any) -> dict[str, Any]:
    """The keys one level below, over all variants, with the type of each."""
    found: dict[str, Any] = {}
    for variant in variants(hint):
        if tag(variant):
            found["kind"] = Literal[tuple(tag(other) for other in variants(hint))]
        found |= _own_fields(variant)
    return found


@cache
def _own_fields(variant: type[msgspec.Struct]) -> dict[str, Any]:
    hints = get_type_hints(variant, include_extras=True)
    return {field.encode_name: hints[field.name] for field in msgspec.structs.fields(variant)}


def items(hint: Any) -> Any:
    """The type of what a table of free names or a list holds, None for everything else."""
    for kind in alternatives(hint):
        if get_origin(kind) in (dict, list, tuple):
            return [argument for argument in get_args(kind) if argument is not ...][-1]
    return None


def hint_at(root: Any, path: Sequence[str]) -> Any:
    """The type of the value at a path, None where there is no such key."""
    hint = root
    for name in path:
        hint = fields(hint).get(name, items(hint))
    return hint


def known_keys(hint: Any, prefix: str = "") -> list[str]:
    """Every dotted key that a config takes, over all variants."""
    keys: list[str] = []
    for name, below in fields(hint).items():
        keys += [prefix + name, *known_keys(below, f"{prefix}{name}.")]
    return list(dict.fromkeys(keys))


def allowed(hint: Any) -> str:
    """The values that a key takes, in words."""
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        bounds = [bound for note in notes if isinstance(note, msgspec.Meta) for bound in _bounds(note)]
        return " ".join([allowed(kind), " and ".join(bounds)]).strip()
    if get_origin(hint) in (Union, types.UnionType):
        tables = [tag(kind) for kind in variants(hint)]
        others = [allowed(kind) for kind in get_args(hint) if not variants(kind)]
        return ", ".join([*([f"a table with kind = {' | '.join(tables)}"] if tables else []), *others])
    if get_origin(hint) is Literal:
        return ", ".join(str(value) for value in get_args(hint))
    if variants(hint):
        return f"a table with {', '.join(fields(hint))}"
    return NAMES.get(get_origin(hint) or hint, str(hint))


def _bounds(meta: msgspec.Meta) -> Iterator[str]:
    for name, sign in {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}.items():
        if (bound := getattr(meta, name)) is not None:
            yield f"{sign} {bound}"
    if meta.min_length is not None:
        yield "that is not empty" if meta.min_length == 1 else f"of {meta.min_length} or more"
    if meta.pattern is not None:
        yield f"like {meta.pattern}"
