"""Options that belong together reach a command as one value, and typer as one option each."""

from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from thetahat.cli.options import options_of, typed_as

told = []


@dataclass(frozen=True)
class Size:
    width: int = typer.Option(3, help="How wide.")
    tall: float | None = typer.Option(None)


@dataclass(frozen=True)
class Place:
    folder: Path = typer.Option(Path("here"))
    names: list[str] = typer.Option([])


@options_of(Size, Place)
def draw(words: list[str] = typer.Argument(), quiet: bool = typer.Option(False), **typed) -> None:
    """Draw it."""
    told.append((typed_as(Size, typed), words, typed_as(Place, typed), quiet))


def test_typer_sees_each_field_and_what_every_command_has_last():
    assert list(signature(draw).parameters) == ["words", "width", "tall", "folder", "names", "quiet"]
    assert (draw.__name__, draw.__doc__) == ("draw", "Draw it.")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (Size(3, None), ["x"], Place(Path("here"), []), False)),
        (
            ["--tall", "2", "--names", "a", "--names", "b", "--quiet", "--folder", "there"],
            (Size(3, 2.0), ["x"], Place(Path("there"), ["a", "b"]), True),
        ),
    ],
)
def test_what_is_typed_arrives_as_values(words, expected):
    app = typer.Typer()
    app.command()(draw)
    done = CliRunner().invoke(app, ["x", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert told.pop() == expected


def test_a_value_of_the_wrong_kind_names_its_option():
    app = typer.Typer()
    app.command()(draw)
    done = CliRunner().invoke(app, ["x", "--width", "wide"])
    assert done.exit_code == 2
    assert "--width" in done.output
