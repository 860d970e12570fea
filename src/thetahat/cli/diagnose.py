"""`thetahat diagnose`."""

import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.table import Column, show_table
from thetahat.cli.words import Json, Quiet, emit, emit_json, escape, in_line, listen_to_library, say

if TYPE_CHECKING:
    from thetahat.verbs.diagnose import Comparison, Diagnosis

CALLED = {"fault": "a fault", "trouble": "trouble", "note": "to know"}


def diagnose(
    run: str = typer.Argument(metavar="RUN", help="A run folder."),
    other: str | None = typer.Argument(
        None, metavar="[RUN]", help="Another one: what differs, and from which step on.", show_default=False
    ),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Say what happened in a run, why, and what to change; of two runs, what differs and from which step on."""
    listen_to_library(quiet=quiet)
    from thetahat.verbs.diagnose import Diagnosis, diagnose as look

    found = look(run, other)
    if not quiet:
        for note in found.notes:
            say(escape(note))
    if json:
        emit_json(found)
    elif isinstance(found, Diagnosis):
        _show(found, quiet=quiet)
    else:
        _show_two(found)


def _show(found: "Diagnosis", *, quiet: bool) -> None:
    _write(found.headline)
    _write(found.verdict)
    if found.timeline:
        emit("\nWhat happened")
        width = max(len(f"{one.step:,}") for one in found.timeline)
        for one in found.timeline:
            _write(one.text, f"  {one.step:>{width},}  ")
    if found.causes:
        emit("\nWhy, in the order in which to look" if len(found.causes) > 1 else "\nWhy")
    for number, (cause, command) in enumerate(zip(found.causes, found.commands, strict=True), start=1):
        when = f", from step {cause.step:,} on" if cause.step else ""
        _write(f"{cause.name} ({CALLED[cause.kind]}, {cause.strength}{when}): {cause.what}", f"  {number}. ")
        for line in cause.evidence:
            _write(line, "     - ")
        if cause.cure:
            _write(f"try: {cause.cure}", "     ")
        if command:
            emit(f"     {escape(command)}")
    if not quiet:
        emit("")
        _write(f"Looked at: {', '.join(found.looked)}.")
        if found.lacking:
            _write(f"Not looked at: {'; '.join(found.lacking)}.")


def _show_two(found: "Comparison") -> None:
    _write(f"{found.runs[0]} and {found.runs[1]}: {found.verdict}")
    if found.divergence.departures:
        emit("\nWhere they part")
        columns = [
            Column("step", lambda one: one.step, ",d"),
            Column("signal", lambda one: one.signal),
            *(Column(name, _of(name)) for name in ("ours", "theirs")),
        ]
        show_table(found.divergence.departures, columns)
    for title, table in (("config", found.config), ("data", found.data), ("environment", found.environment)):
        if table:
            emit(f"\nWhat differs in the {title}")
            show_table([*table.items()], [Column("", lambda one: one[0]), *map(_side, (0, 1))])


def _of(name: str) -> Any:
    def value(one: Any) -> str:
        found = getattr(one, name)
        return found if isinstance(found, str) else f"{found:.10g}"

    return value


def _side(which: int) -> Column:
    return Column(("ours", "theirs")[which], lambda one: "" if one[1][which] is None else str(one[1][which]))


def _write(text: str, before: str = "") -> None:
    """A line for stdout; on a terminal in lines that end between words, below where it begins."""
    for line in _lines(in_line(text), before):
        emit(line)


def _lines(text: str, before: str) -> Iterable[str]:
    if not sys.stdout.isatty():
        return [before + text]
    width = max(shutil.get_terminal_size().columns, len(before) + 20)
    return textwrap.wrap(
        text,
        width,
        initial_indent=before,
        subsequent_indent=" " * len(before),
        break_long_words=False,
        break_on_hyphens=False,
    )
