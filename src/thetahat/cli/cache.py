"""`thetahat cache`."""

import time

import typer

from thetahat.cli.words import Json, Quiet, emit_json, listen_to_library, say


def cache(
    verify: bool = typer.Option(False, "--verify", help="Check every byte against what was written."),
    clean: bool = typer.Option(False, "--clean", help="Remove it; all of it can be made again."),
    older_than: float = typer.Option(0.0, help="With --clean: what was not used for so many days.", show_default=False),
    down_to: float | None = typer.Option(
        None, help="With --clean: what was used longest ago, until so many GB are left.", show_default=False
    ),
    everything: bool = typer.Option(False, "--all", help="With --clean: also what came from standard input."),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """List what is kept of data so that it is not made again, check it or remove it."""
    listen_to_library(quiet=quiet)
    _check(clean, older_than, down_to, everything)
    from thetahat.data.read.cache import default_cache
    from thetahat.verbs import cache as verbs

    place = str(default_cache())
    if clean:
        room = None if down_to is None else int(down_to * 1e9)
        removed, busy = verbs.clean(older_than, room, with_input=everything)
        freed = sum(entry.num_bytes for entry in removed)
        if json:
            emit_json({"cache": place, "removed": removed, "in_use": busy, "freed_bytes": freed})
        elif not quiet:
            say(f"{place}: removed {len(removed):,} entries with {_size(freed)}")
            if busy:
                say(f"{len(busy):,} are in use and stay")
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


def _show(place: str, found: list, *, quiet: bool) -> None:  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]
    from thetahat.cli.table import Column, show_table
    from thetahat.verbs.cache import kind_of

    columns = (
        Column("what", lambda entry: kind_of(entry) + " (not finished)" * entry.is_partial),
        Column("made of", lambda entry: entry.made_of or "-"),
        Column("size", lambda entry: _size(entry.num_bytes)),
        Column("last use", lambda entry: time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_use))),
        Column("folder", lambda entry: f"{entry.kind}/{entry.name}"),
    )
    shown = [entry for entry in found if entry.kind != "files"]
    if shown:
        show_table(shown, columns)
    if not quiet:
        say(f"{place}: {_size(sum(entry.num_bytes for entry in found))} (THETAHAT_CACHE=DIR puts it elsewhere)")
        say("Next: thetahat cache --clean --older-than 30, or --verify")


def _size(num_bytes: int) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= limit:
            return f"{num_bytes / limit:.1f} {unit}"
    return f"{num_bytes} B"


def _check(clean: bool, older_than: float, down_to: float | None, everything: bool) -> None:
    from thetahat.core.errors import ConfigError

    if not clean and (older_than or down_to is not None or everything):
        raise ConfigError("--older-than, --down-to and --all say what --clean removes", cure="thetahat cache --clean")
    if older_than < 0 or (down_to is not None and down_to < 0):
        raise ConfigError("--older-than and --down-to", allowed="a number of days, of GB: 0 or more")
