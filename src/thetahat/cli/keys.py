"""`thetahat keys`."""

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, find_config, in_line, listen_to_library, say

if TYPE_CHECKING:
    from thetahat.verbs.keys import Key

INDENT = "    "


def keys(
    prefix: str = typer.Argument("", metavar="[PREFIX]", help="Keys at or below this one.", show_default=False),
    find: str = typer.Option("", help="Keys with this word in their name or meaning.", show_default=False),
    of: str = typer.Option("", metavar="RECIPE|CONFIG.toml|MODEL", help="With their values there.", show_default=False),
    everything: bool = typer.Option(False, "--all", help="Without a prefix, also those below the first level."),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Look up the keys of KEY=VALUE: what they mean, what they may be, what they are by default."""
    listen_to_library(quiet=quiet)
    from thetahat.core.config import settings_of, to_toml

    found = _found(prefix, find)
    values = settings_of(to_toml(find_config([of]))) if of else {}
    if json:
        emit_json({"keys": [_as_json(key, values, is_asked=bool(of)) for key in found]})
        return
    is_overview = not (prefix or find or everything)
    shown = [key for key in found if "." not in key.key] if is_overview else found
    for key in shown:
        _show(key, values.get(key.key, key.default))
    if not quiet and is_overview:
        say(f"\n{len(found)} keys in all.\nNext: thetahat keys data    or thetahat keys --find WORD, or --all")


def _found(prefix: str, find: str) -> "list[Key]":
    """The keys; the error for a name of another trainer says what to type in its place."""
    from thetahat.cli.hints import meant
    from thetahat.core.errors import ConfigError
    from thetahat.verbs.keys import keys as look_up

    try:
        return look_up(prefix, find)
    except ConfigError as error:
        if told := meant(prefix, ""):
            raise ConfigError(error.what, cure=told) from error
        raise


def _as_json(key: "Key", values: dict[str, Any], *, is_asked: bool) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(key) | ({"value": values.get(key.key)} if is_asked else {})


def _show(key: "Key", value: Any) -> None:
    """A key, what it means, and what it may be: one line in a pipe, some on a terminal."""
    typed = "..." if value == "required" else str(value).lower() if isinstance(value, bool) else str(value)
    name = f"{key.key}={typed}" if typed else f"{key.key}.*"
    where = f"(where {' or '.join(key.where)})" if key.where else ""
    allowed = "" if key.is_table else f"Allowed: {key.allowed}."
    told = [line for line in (where, key.meaning, allowed, f"See {key.chapter}.") if line]
    if sys.stdout.isatty():
        emit(f"\x1b[1m{in_line(name)}\x1b[0m")
        for line in told:
            emit(_below(in_line(line)))
    else:
        emit("  ".join(in_line(part) for part in (name, *told)))


def _below(text: str) -> str:
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False)
