"""`thetahat cache`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.options import options_of, typed_as
from thetahat.cli.words import Json, Quiet, emit_json, listen_to_library, say
from thetahat.core.plain import sized

if TYPE_CHECKING:
    from thetahat.verbs.cache import Entry


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What is removed, as it was typed."""

    clean: bool = typer.Option(False, "--clean", help="Remove it; all of it can be made again.")
    older_than: float | None = typer.Option(
        None, help="With --clean: what was not used for so many days.", show_default=False
    )
    down_to: float | None = typer.Option(
        None, help="With --clean: what was used longest ago, until so many GB are left.", show_default=False
    )
    everything: bool = typer.Option(False, "--all", help="With --clean: also what came from standard input.")


@options_of(Cleaning)
def cache(
    verify: bool = typer.Option(False, "--verify", help="Check every byte against what was written."),
    quiet: bool = Quiet,
    json: bool = Json,
    **typed: Any,
) -> None:
    """List what is kept of data so that it is not made again, check it or remove it."""
    listen_to_library(quiet=quiet)
    cleaning = typed_as(Cleaning, typed)
    _check(cleaning)
    from thetahat.data.read.cache import default_cache
    from thetahat.verbs import cache as verbs

    place = str(default_cache())
    if cleaning.clean:
        room = None if cleaning.down_to is None else int(cleaning.down_to * 1e9)
        removed, busy = verbs.clean(cleaning.older_than or 0.0, room, with_input=cleaning.everything)
        freed = sum(entry.num_bytes for entry in removed)
        if json:
            emit_json({"cache": place, "removed": removed, "in_use": busy, "freed_bytes": freed})
        elif not quiet:
            entries = "entry" if len(removed) == 1 else "entries"
            say(f"{place}: removed {len(removed):,} {entries} with {sized(freed)}")
            if busy:
                say(f"{len(busy):,} in use, which stay")
        return
    found = verbs.entries()
    damaged = list(verbs.damage(found)) if verify else []
    if json:
        told = [{"path": entry.path, "why": why} for entry, why in damaged]
        emit_json({"cache": place, "entries": found, "bytes": sum(entry.num_bytes for entry in found), "damaged": told})
    else:
        _show(place, found, quiet=quiet)
    if damaged:
        from thetahat.core.errors import DamagedError

        listed = "".join(f"\n    {why}" for _, why in damaged)
        raise DamagedError(f"{len(damaged)} of {place} are damaged:{listed}", cure="remove these folders: rm -r FOLDER")
    if verify and not quiet:
        say("Every byte is as it was written.")


def _show(place: str, found: "list[Entry]", *, quiet: bool) -> None:
    from thetahat.cli.table import Column, show_table
    from thetahat.run.folder.moved import shown
    from thetahat.verbs.cache import kind_of

    columns = (
        Column("what", lambda entry: kind_of(entry) + " (not finished)" * entry.is_partial),
        Column("made of", lambda entry: shown(Path(entry.made_of)) if entry.made_of else "-"),
        Column("size", lambda entry: sized(entry.num_bytes), ""),
        Column("last use", lambda entry: time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_use)), "", spare=1),
        Column("folder", lambda entry: f"{entry.kind}/{entry.name}", spare=2),
    )
    listed = [entry for entry in found if entry.kind != "files"]
    if listed:
        show_table(listed, columns)
    if not quiet:
        say(f"{place}: {sized(sum(entry.num_bytes for entry in found))} (THETAHAT_CACHE=DIR puts it elsewhere)")
        say("Next: thetahat cache --clean --older-than 30    or --verify")


def _check(cleaning: Cleaning) -> None:
    from thetahat.core.errors import ConfigError

    numbers = {"--older-than": cleaning.older_than, "--down-to": cleaning.down_to}
    for name, value in numbers.items():
        if value is not None and not 0 <= value < float("inf"):
            allowed = "a number of days" if name == "--older-than" else "a number of GB"
            raise ConfigError(f"{name} {value:g}", allowed=f"{allowed}, 0 or more")
    named = [name for name, value in numbers.items() if value is not None] + ["--all"] * cleaning.everything
    if named and not cleaning.clean:
        raise ConfigError(f"{named[0]} says what --clean removes", cure=f"thetahat cache --clean {named[0]} ...")
