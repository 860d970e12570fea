"""`thetahat watch`."""

import os
import select
import shutil
import sys
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from thetahat.cli.words import Json, emit, emit_json, escape, in_line, say

if TYPE_CHECKING:
    from thetahat.verbs.watch import Watched, Watching

AROUND = 5  # lines of a screen that are neither numbers nor the curve: its title and names, and empty ones
LEAST = 7  # lines of a curve; where there is no room for so many, it is left out
NARROWEST = 20  # columns
LONGEST = 30  # characters of a run's path


def watch(
    run: str = typer.Argument(..., metavar="RUN", help="A run folder; one that has not begun is waited for."),
    once: bool = typer.Option(False, "--once", help="Print one screen, and end."),
    every: float = typer.Option(1.0, min=0.1, help="Seconds between two looks."),
    json: bool = Json,
) -> None:
    """Show a run live while another process trains it: curve, numbers, time left, alarms, the best so far.

    q or Ctrl-C leaves; the run goes on. Ends with the run. Where output is no terminal, and with --json, once.
    """
    from thetahat.verbs.watch import Watching

    watching = Watching(Path(run))
    if json:
        emit_json(watching.look())
    elif once or not sys.stdout.isatty():
        emit(_screen(watching, watching.look(), has_colours=_has_colours()))
    else:
        _live(watching, every)


def _live(watching: "Watching", every: float) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    seen = watching.look()
    with _keys() as pressed, Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            live.update(Text.from_ansi(_screen(watching, seen, has_colours=_has_colours())), refresh=True)
            if seen.state == "finished" or pressed(every):
                break
            seen = watching.look()
    emit(_screen(watching, seen, has_colours=_has_colours()))
    if seen.state != "finished":
        say(f"Left; thetahat watch {watching.run} shows it again.")


@contextmanager
def _keys() -> "Generator[_Pressed]":
    """Something that waits for q, or Ctrl-C, for so many seconds; keys are read at once, and not shown."""
    if not sys.stdin.isatty():
        yield _Pressed(is_read=False)
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _Pressed(is_read=True)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


class _Pressed:
    """Whether somebody wants to leave."""

    def __init__(self, *, is_read: bool) -> None:
        self._is_read = is_read

    def __call__(self, seconds: float) -> bool:
        try:
            ready, _, _ = select.select([sys.stdin] if self._is_read else [], [], [], seconds)
            return bool(ready) and sys.stdin.read(1) in ("q", "Q", "\x03", "\x04", "")
        except KeyboardInterrupt:
            return True


def _has_colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _screen(watching: "Watching", seen: "Watched", *, has_colours: bool) -> str:
    """All of it, no wider and, as far as its curve can give way, no higher than the terminal."""
    from thetahat.core.plain import shorter
    from thetahat.figures.terminal import as_text, in_lines

    width, height = shutil.get_terminal_size()
    width = max(width, NARROWEST)
    head = [shorter(line, width) for row in _numbers(seen) for line in in_lines(row, width)]
    foot = [shorter(line, width) for line in _below(seen)]
    room = height - len(head) - len(foot) - AROUND
    curve = ""
    if seen.step > 1 and room >= LEAST:
        curve = as_text(watching.panels(), "step", width, has_colours=has_colours, height=room)
    return "\n".join([*head, "", *([curve, ""] if curve else []), *foot]).rstrip()


def _numbers(seen: "Watched") -> list[list[str]]:
    """Rows of what is told in pieces; a row that is too long for a line goes on in the next."""
    from thetahat.core.plain import duration

    run = escape(seen.run if len(seen.run) <= LONGEST else f"…{seen.run[1 - LONGEST :]}")
    if seen.state == "waiting":
        return [[run, "waiting for its first step" if Path(seen.run).is_dir() else "is not there yet"]]
    of = f"/{seen.num_steps:,}" if seen.num_steps else ""
    share = f" ({seen.step / seen.num_steps:.0%})" if seen.num_steps else ""
    left = "" if seen.seconds_left is None else f", {duration(seen.seconds_left)} left"
    silent = seen.idle or 0.0
    first = [run, seen.state, f"step {seen.step:,}{of}{share}", f"{duration(seen.seconds)}{left}"]
    first += [f"nothing for {duration(silent)}"] if seen.state != "finished" and silent > 60 else []
    second = [f"{seen.nats_per_token:.4f} nats/target"]
    second += [] if seen.tokens_per_second is None else [f"{seen.tokens_per_second:,.0f} targets/s"]
    second += [] if seen.gradient_norm is None else [f"gradient {seen.gradient_norm:.3g}"]
    second += [] if seen.learning_rate_factor is None else [f"rate {seen.learning_rate_factor:.0%} of its peak"]
    if seen.held_out is None or seen.best is None:
        return [first, second, ["nothing held out was scored yet"]]
    best = f"best {seen.best:.4f} at step {seen.best_step:,}"
    return [first, second, [f"held out {seen.held_out:.4f} {seen.unit}", best]]


def _below(seen: "Watched") -> list[str]:
    from thetahat.core.plain import counted

    found = [in_line(alarm) for alarm in seen.alarms]
    if seen.num_alarms > len(found):
        found.insert(0, f"{seen.num_alarms:,} alarms, the last:")
    if seen.sample:
        told = in_line(f"{seen.sample.get('prompt')}|{seen.sample.get('text')}")
        found.append(f"step {seen.sample.get('step')} writes: {told}")
    if seen.num_damaged:
        found.append(f"{counted(seen.num_damaged, 'damaged line')} left out")
    return found
