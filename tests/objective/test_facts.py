"""What the package must know of a factorization or a layout is said by it, and asked for nowhere else by name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import thetahat
from thetahat.core import layout
from thetahat.core.layout import Layout
from thetahat.objective.config import FACTORIZATIONS

SOURCE = Path(thetahat.__file__).parent
LAYOUTS = {name: value for name, value in vars(layout).items() if isinstance(value, Layout)}
VARIANTS = {kind.__name__ for kind in FACTORIZATIONS.values()}
NAMES = set(FACTORIZATIONS) | {one.name for one in LAYOUTS.values()} | set(LAYOUTS)
ALLOWED = 6


def decisions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Comparisons, matches, `isinstance` and tables that tell factorizations or layouts apart by name."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare() if any(map(_is_named, [node.left, *node.comparators])):
                yield node.lineno, ast.unparse(node)
            case ast.Call(func=ast.Name(id="isinstance"), args=[_, kind]) if _words(kind) & VARIANTS:
                yield node.lineno, ast.unparse(node)
            case ast.Dict() if sum(map(_is_named, node.keys)) > 1:
                yield node.lineno, ast.unparse(node)
            case ast.Set() | ast.Tuple() | ast.List() if sum(map(_is_named, node.elts)) > 1:
                yield node.lineno, ast.unparse(node)
            case ast.MatchClass() if _words(node.cls) & VARIANTS:
                yield node.lineno, ast.unparse(node)
            case ast.MatchValue() if _is_named(node.value):
                yield node.lineno, ast.unparse(node)
            case _:
                pass


def _is_named(node: ast.AST | None) -> bool:
    """A kind or a layout by its name, or an expression that is one."""
    match node:
        case ast.Constant(value=str() as text):
            return text in NAMES
        case ast.Set() | ast.Tuple() | ast.List():
            return any(map(_is_named, node.elts))
        case ast.Attribute(attr="layout" | "factorization") | ast.Name(id="layout" | "factorization"):
            return True
        case ast.Call(func=ast.Name(id="kind_of" | "tag" | "type")):
            return bool(_words(node) & {"factorization"})
        case _:
            return bool(node) and bool(_words(node) & (VARIANTS | set(LAYOUTS)))


def _words(node: ast.AST) -> set[str]:
    """The names and attributes of an expression, without the texts in it."""
    found = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return found | {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}


def test_at_most_six_places_outside_the_objective_tell_factorizations_or_layouts_apart():
    found = [
        f"{path.relative_to(SOURCE)}:{line} {text}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.parent.name != "objective"
        for line, text in decisions(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert len(found) <= ALLOWED, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "isinstance(config.objective.factorization, Prefix)",
        "isinstance(choice, Masked | Spans)",
        "kind_of(objective.factorization) in {'conditional', 'spans'}",
        "corpus.layout == 'label'",
        "corpus.layout in ends",
        "choice is WHOLE",
        "factorization != 'masked'",
        "{'causal': 'stream', 'masked': 'whole'}[kind]",
        "COMPUTED = ('causal', 'prefix')",
        "match choice:\n    case Spans():\n        pass",
        "match layout:\n    case 'pair':\n        pass",
    ],
)
def test_such_a_place_is_found(text):
    assert len(list(decisions(ast.parse(text)))) >= 1


def test_a_fact_is_no_such_place():
    assert list(decisions(ast.parse("1 if factorization.layout.has_source else choice.counts(3)"))) == []
