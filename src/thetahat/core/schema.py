"""What a config may contain, read off its types and its text: keys, variants, the values of each key, its meaning.

The meaning of a key is the string that stands below its field, where documentation tools look for it, too.
"""

import ast
import difflib
import inspect
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
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

_TIMES = r"(?:([1-9]\d{0,3}) ?x ?)?([a-z][\w-]*)"  # 3x delta
_PATTERN = rf"\[?{_TIMES}(?:, ?{_TIMES})*\]?"
_MEANT = r"(\d*)[ x*,]*([a-z][a-z_-]+)"  # 2x,delta or 2 delta or 2*delta


def alternatives(hint: Any) -> list[Any]:
    """The types that a value may have, with unions opened and annotations taken off."""
    origin = get_origin(hint)
    if origin is Annotated:
        return alternatives(get_args(hint)[0])
    if origin in (Union, types.UnionType):
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
    kinds = variants(hint)
    for variant in kinds:
        if tag(variant):
            found["kind"] = Literal[tuple(map(tag, kinds))]
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


def listed_kinds(hint: Any) -> list[str]:
    """The kinds of the tables that a list holds, where they are chosen by their kind."""
    is_list = any(get_origin(kind) in (list, tuple) for kind in alternatives(hint))
    return [tag(variant) for variant in variants(items(hint)) if tag(variant)] if is_list else []


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


def near_keys(path: Sequence[str], root: Any) -> list[str]:
    """The keys that were probably meant by an unknown one, at most three.

    Those whose last name it is, wherever they stand; else the one that is most alike, below the same table first.
    """
    known = known_keys(root)
    plain = [key for key in known if not variants(hint_at(root, key.split(".")))] or known
    for ending in (".".join(path), path[-1]):
        if same := [key for key in plain if key == ending or key.endswith(f".{ending}")]:
            return sorted(same, key=lambda key: key.count("."))[:3]
    above = ".".join(path[:-1])
    beside = [key for key in plain if above and key.rpartition(".")[0] == above]
    for candidates, enough in ((beside, 0.6), (known if not beside else plain, 0.6 if not beside else 0.8)):
        if candidates:
            near = max(candidates, key=lambda key: _likeness(path, key.split("."), whole=not beside))
            if _likeness(path, near.split("."), whole=not beside) > enough:
                return [near]
    return []


def _likeness(ours: Sequence[str], theirs: Sequence[str], *, whole: bool) -> float:
    """Of two keys, in 0 to 1: of their last names or, if it is more, of the `whole`."""
    pairs = [(ours[-1], theirs[-1]), *([(".".join(ours), ".".join(theirs))] if whole else [])]
    return max(difflib.SequenceMatcher(None, a, b).ratio() for a, b in pairs)


def allowed(hint: Any) -> str:
    """The values that a key takes, in words."""
    if kinds := listed_kinds(hint):
        return allowed_patterns(kinds)
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        bounds = [bound for note in notes if isinstance(note, msgspec.Meta) for bound in _bounds(note)]
        return " ".join([allowed(kind), " and ".join(bounds)]).strip()
    if get_origin(hint) in (Union, types.UnionType):
        kinds = variants(hint)
        tables = [f"a table with kind = {' | '.join(map(tag, kinds))}"] if any(map(tag, kinds)) else []
        tables = tables or [allowed(kind) for kind in kinds]
        return ", ".join([*tables, *(allowed(kind) for kind in get_args(hint) if not variants(kind))])
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


@cache
def meanings(kind: type) -> Mapping[str, str]:
    """The meaning of each field, on one line; a field without one is left out."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        found |= _below_fields(owner.__module__).get(owner.__qualname__, {})
    return found


def purpose(kind: type) -> str:
    """The first sentence of a config's docstring, without the formula or the source in brackets at its end."""
    told = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    return told.partition(". ")[0].rstrip(".") + "."


def choice(kind: type) -> str:
    """The `kind` of a variant with its purpose, or the purpose alone where there is no choice."""
    return ": ".join(filter(None, (tag(kind), purpose(kind))))


@cache
def _below_fields(module: str) -> Mapping[str, Mapping[str, str]]:
    """Of each class at the top of a module, the strings below its fields."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):  # built in, or without its source
        return {}
    return {node.name: dict(_strings(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _strings(owner: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(owner.body, owner.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                yield name, " ".join(text.split())
            case _:
                pass


def kinds_in(text: str) -> list[str] | None:
    """The kinds that a pattern lists, each as often as it says; None where the text is none."""
    if not re.fullmatch(_PATTERN, text):
        return None
    return [kind for number, kind in re.findall(_TIMES, text) for _ in range(int(number or 1))]


def pattern_of(kinds: Sequence[str]) -> str:
    """The pattern that lists these kinds."""
    runs = [(kind, len(list(same))) for kind, same in groupby(kinds)]
    return ", ".join(kind if number == 1 else f"{number}x {kind}" for kind, number in runs)


def pattern_near(text: str, kinds: Sequence[str]) -> str:
    """The pattern that was probably meant by a text that is none, or that names other kinds; empty: who knows."""
    found = [(number, difflib.get_close_matches(kind, kinds, n=1)) for number, kind in re.findall(_MEANT, text.lower())]
    if re.search(r"\.|-\d", text) or not found or not all(near for _, near in found):
        return ""
    near = ", ".join(f"{number}x {one[0]}" if int(number or 1) > 1 else one[0] for number, one in found)
    return near if kinds_in(near) else ""


def allowed_patterns(kinds: Sequence[str]) -> str:
    """What such a list may be, in words."""
    return f"{', '.join(kinds)}, or several of them as in '3x {kinds[1]}, {kinds[0]}', or a list of tables"
