"""How far a command is: a bar on a terminal, a plain line every ten seconds elsewhere."""

import math
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from thetahat.cli.words import say
from thetahat.core.plain import duration

SILENCE = 10.0  # seconds between two lines
RECENT = 20.0  # seconds, about, of which a rate is the mean
ROOM_FOR_A_BAR = 100  # columns of a terminal


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a command is, and what is known by then."""

    done: int
    total: int
    num_new: int  # done since the last standing
    num_tokens: int  # read or predicted since the last standing
    known: str = ""
    brief: str = ""  # the same for a narrow terminal
    is_news: bool = False  # worth a line of its own


Shows = Callable[[Standing], None]


@contextmanager
def progress(unit: str, *, shown: bool, stays: bool) -> Generator[Shows]:
    """A function to call with every standing. `unit` is what is counted; the bar `stays` on the screen, or goes."""
    if not shown:
        yield lambda standing: None
    elif sys.stderr.isatty():
        console = Console(stderr=True)
        with Progress(*_columns(console.width), console=console, transient=not stays) as bar:
            yield _Bar(bar, unit, is_wide=console.width >= ROOM_FOR_A_BAR)
    else:
        yield _Lines(unit)


@contextmanager
def token_progress(*, shown: bool) -> Generator[Callable[[int, int], None]]:
    """The same for tokens that are scored: a function of how many are done, and of how many."""
    with progress("tokens", shown=shown, stays=False) as show:
        before = 0

        def shows(done: int, total: int) -> None:
            nonlocal before
            show(Standing(done, total, done - before, done - before))
            before = done

        yield shows


class _Bar:
    def __init__(self, bar: Progress, unit: str, *, is_wide: bool) -> None:
        self.bar, self.unit, self.is_wide, self.task, self.rate = bar, unit, is_wide, None, Rate()

    def __call__(self, standing: Standing) -> None:
        known = standing.known if self.is_wide else standing.brief
        said = f"{known or self.unit} {self.rate(standing.num_tokens):,.0f} tok/s"
        if self.task is None:
            self.task = self.bar.add_task("", total=standing.total, completed=standing.done, said=said)
        self.bar.update(self.task, completed=standing.done, total=standing.total, said=said)


class _Lines:
    """At most a line in `SILENCE` seconds, and one for all news."""

    def __init__(self, unit: str) -> None:
        self.unit, self.last = unit, time.monotonic()
        self.tokens, self.units = Rate(), Rate()

    def __call__(self, standing: Standing) -> None:
        tokens, units, now = self.tokens(standing.num_tokens), self.units(standing.num_new), time.monotonic()
        if not standing.is_news and now - self.last < SILENCE:
            return
        self.last = now
        known = f"  {standing.known}" if standing.known else ""
        left = duration((standing.total - standing.done) / units) if units else "unknown time"
        say(f"{self.unit} {standing.done:,}/{standing.total:,}{known}  {tokens:,.0f} tokens/s  {left} left")


class Rate:
    r"""Something a second: $\sum_i e^{-a_i / \tau} n_i / \sum_i e^{-a_i / \tau} t_i$.

    $n_i$ is what came in the $t_i$ seconds before the i-th call, $a_i$ the age of that, and $\tau$ is `RECENT`.
    """

    def __init__(self) -> None:
        self.last, self.number, self.seconds = time.monotonic(), 0.0, 0.0

    def __call__(self, number: int) -> float:
        """The rate after `number` more."""
        now = time.monotonic()
        spent, self.last = now - self.last, now
        keep = math.exp(-spent / RECENT)
        self.number, self.seconds = keep * self.number + number, keep * self.seconds + spent
        return self.number / max(self.seconds, 1e-9)


def _columns(width: int) -> list[ProgressColumn]:
    columns: list[ProgressColumn] = [
        TextColumn("{task.completed:,}/{task.total:,}"),
        BarColumn(bar_width=10),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    ]
    return columns if width >= ROOM_FOR_A_BAR else [columns[0], *columns[2:]]
