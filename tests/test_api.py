"""What `import thetahat as th` gives: every verb and every config, documented; no page imports from within."""

import ast
import inspect
from pathlib import Path

import pytest

import thetahat as th
from thetahat.core.config import Config
from thetahat.core.schema import fields, variants

SOURCE = Path(th.__file__)
NAMES = [name for name in th.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_documented(name):
    found = getattr(th, name)
    assert inspect.getdoc(found), name
    assert name in dir(th)


def test_what_a_type_checker_sees_is_what_there_is():
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    imported = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("thetahat.")
        for alias in node.names
    }
    assert imported == {name: f"thetahat.{th._PLACES[name]}.{name}" for name in NAMES}


def configs_below(kind, found):
    for hint in fields(kind).values():
        for below in variants(hint):
            if below not in found:
                found.add(below)
                configs_below(below, found)
    return found


def test_every_config_that_a_run_is_made_of_has_a_name():
    made_of = {kind.__name__ for kind in configs_below(th.RunConfig, {th.RunConfig}) if issubclass(kind, Config)}
    assert made_of - set(NAMES) == set()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        th.trian  # noqa: B018


def test_the_readme_needs_no_inner_module():
    readme = SOURCE.parents[2] / "README.md"
    assert "from thetahat." not in readme.read_text(encoding="utf-8")
