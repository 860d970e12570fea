"""Each key of a public config has a meaning, and it stands in one place: below the field."""

import ast
import inspect

import msgspec
import pytest

import thetahat as th
from thetahat.core.config import Config
from thetahat.core.schema import meanings, purpose


class Base(Config, kw_only=True):
    first: int = 1
    """What is
    first."""
    plain: int = 2


class Derived(Base, kw_only=True):
    """A thing (Somebody, 2020). More of it.

    And more.
    """

    second: str = ""
    """What is second."""

    def first_of_all(self) -> int:
        """This is no field."""
        return self.first


def test_a_meaning_is_the_string_below_a_field_inherited_ones_too():
    assert meanings(Derived) == {"first": "What is first.", "second": "What is second."}
    assert purpose(Derived) == "A thing (Somebody, 2020)."


@pytest.mark.parametrize("name", th.CONFIGS)
def test_every_key_of_a_config_has_a_meaning(name):
    kind = getattr(th, name)
    told = meanings(kind)
    assert [field.name for field in msgspec.structs.fields(kind) if not told.get(field.name)] == []
    assert [text for text in told.values() if not text[0].isupper() or text[-1] not in ".*?"] == []


@pytest.mark.parametrize("module", sorted({f"thetahat.{place}" for place in th.CONFIGS.values()}))
def test_no_comment_beside_a_field_says_it_again(module):
    source = inspect.getsource(__import__(module, fromlist=["_"]))
    lines = source.splitlines()
    kinds = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name in th.CONFIGS]
    fields = [node for kind in kinds for node in kind.body if isinstance(node, ast.AnnAssign)]
    of_variants = [node for node in fields if "ClassVar" not in ast.unparse(node.annotation)]
    assert [lines[node.end_lineno - 1] for node in of_variants if "  # " in lines[node.end_lineno - 1]] == []
