"""How far a command is: a bar on a terminal, a plain line every ten seconds elsewhere, of a preparation more often."""

import math
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn

from thetahat.cli.phases import Watch, counted, time_of
from thetahat.cli.words import say
from thetahat.core.plain import duration
from thetahat.core.work.phases import Phase

SILENCE = 10.0  # seconds between two lines
PREPARING = 1.5  # the same while a phase of a preparation is open
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
    paused: float = 0.0  # seconds since the last standing in which something else was done
    later: float = 0.0  # seconds that something else will take until the end


@runtime_checkable
class Display(Protocol):
    """Shows how far a command is."""

    def __call__(self, standing: Standing) -> None:
        """A new standing of what is counted."""
        ...

    def aside(self, what: str, done: int, total: int) -> None:
        """How far something else is, for which what is counted waits."""
        ...


@contextmanager
def progress(unit: str, *, shown: bool, stays: bool) -> Generator[Display]:
    """Something to call with every standing. `unit` is what is counted; the bar `stays` on the screen, or goes.

    The phases of a preparation are shown, too.
    """
    if not shown:
        yield _Nothing()
    elif sys.stderr.isatty():
        console = Console(stderr=True)
        with Progress(*_columns(console.width), console=console, transient=not stays) as bar:
            shows = _Bar(bar, unit, is_wide=console.width >= ROOM_FOR_A_BAR)
            with Watch(shows.phase):
                yield shows
    else:
        lines = _Lines(unit)
        with Watch(lines.phase):
            yield lines


@contextmanager
def token_progress(*, shown: bool, unit: str = "tokens") -> Generator[Callable[[int, int], None]]:
    """The same for tokens that are scored: a function of how many are done, and of how many."""
    with progress(unit, shown=shown, stays=False) as show:
        before = 0

        def shows(done: int, total: int) -> None:
            nonlocal before
            show(Standing(done, total, done - before, done - before if unit == "tokens" else 0))
            before = done

        yield shows


class _Nothing:
    def __call__(self, standing: Standing) -> None:
        pass

    def aside(self, what: str, done: int, total: int) -> None:
        pass


class _Bar:
    """A bar that stays in its place; a second one below it as long as something else is done."""

    def __init__(self, bar: Progress, unit: str, *, is_wide: bool) -> None:
        self.bar, self.unit, self.is_wide, self.task = bar, unit, is_wide, None
        self.tokens, self.units, self.other, self.preparing = Rate(), Rate(), _Aside(), _Preparing()

    def __call__(self, standing: Standing) -> None:
        self._end_aside()
        known = standing.known if self.is_wide else standing.brief
        rate, units = self.tokens(standing.num_tokens, standing.paused), self.units(standing.num_new, standing.paused)
        said = f"{known or self.unit} {pace(rate, units, 'tok', is_brief=not self.is_wide)}"
        left = time_left(standing, units)
        self.task = self._update(self.task, standing.done, standing.total, said=said, left=_left(left))

    def _update(self, task: TaskID | None, done: int, total: int | None, **told: str) -> TaskID:
        """Shows a row, a new one if there is none yet; `count` is that of `done` unless told."""
        fields: dict[str, Any] = {"count": f"{done:,}/{total:,}"} | told
        if task is None:
            task = self.bar.add_task("", total=total, completed=done, **fields)
        self.bar.update(task, completed=done, total=total, **fields)
        return task

    def aside(self, what: str, done: int, total: int) -> None:
        left = self.other(done, total)
        self.other.task = self._update(self.other.task, done, total, said=what, left=_left(left))
        if done >= total:
            self._end_aside()

    def phase(self, phase: Phase | None) -> None:
        """How far a preparation is; None: there is none, or it has ended."""
        if phase is not self.preparing.phase:
            if self.preparing.task is not None:
                self.bar.remove_task(self.preparing.task)
            self.preparing = _Preparing(phase)
        if phase is not None:
            rate, told = self.preparing.rate(), {"count": counted(phase), "said": phase.name}
            left = time_of(phase, rate)
            self.preparing.task = self._update(self.preparing.task, phase.done, phase.total, **told, left=left)

    def _end_aside(self) -> None:
        if self.other.task is not None:
            self.bar.remove_task(self.other.task)
        self.other = _Aside()


class _Lines:
    """At most a line in `SILENCE` seconds, and one for all news."""

    def __init__(self, unit: str) -> None:
        self.unit, self.last = unit, time.monotonic()
        self.tokens, self.units, self.other, self.preparing = Rate(), Rate(), _Aside(), _Preparing()

    def __call__(self, standing: Standing) -> None:
        self.other = _Aside()
        tokens = self.tokens(standing.num_tokens, standing.paused)
        units = self.units(standing.num_new, standing.paused)
        if self._is_time(standing.is_news):
            known = f"  {standing.known}" if standing.known else ""
            done, left = f"{standing.done:,}/{standing.total:,}", time_left(standing, units)
            say(f"{self.unit} {done}{known}  {pace(tokens, units, 'tokens')}  {left or 'unknown time'} left")

    def aside(self, what: str, done: int, total: int) -> None:
        left = self.other(done, total)
        if done < total and self._is_time(False):
            say(f"  {what} {done:,}/{total:,}  {left or 'unknown time'} left")

    def phase(self, phase: Phase | None) -> None:
        """How far a preparation is."""
        if phase is not self.preparing.phase:
            self.preparing = _Preparing(phase)
        if phase is not None:
            rate = self.preparing.rate()
            if self._is_time(False, PREPARING):
                say("  ".join(filter(None, (phase.name, counted(phase), time_of(phase, rate)))))

    def _is_time(self, is_news: bool, silence: float = SILENCE) -> bool:
        now = time.monotonic()
        if not is_news and now - self.last < silence:
            return False
        self.last = now
        return True


class _Aside:
    """How far something else is, and since when."""

    def __init__(self) -> None:
        self.task: TaskID | None = None
        self.started: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> str:
        """The time left, from the mean rate since the first call."""
        now = time.monotonic()
        began, first = self.started = self.started or (now, done)
        return duration((total - done) * (now - began) / (done - first)) if done > first else ""


class _Preparing:
    """A phase, the row that shows it, and how fast it is."""

    def __init__(self, phase: Phase | None = None) -> None:
        self.phase, self._rate = phase, Rate()
        self.task: TaskID | None = None
        self._done = phase.done if phase else 0

    def rate(self) -> float:
        """Of what the phase counts, a second."""
        assert self.phase
        before, self._done = self._done, self.phase.done
        return self._rate(self._done - before)


def _left(time: str) -> str:
    return f"{time} left"


def time_left(standing: Standing, units: float) -> str:
    """The time until the end at this rate; empty where it is not known yet."""
    return duration((standing.total - standing.done) / units + standing.later) if units else ""


def pace(tokens: float, units: float, name: str, *, is_brief: bool = False) -> str:
    """Tokens a second; of what is not counted in tokens, how many of them."""
    if is_brief and tokens >= 100_000:
        return f"{tokens / 1e3:,.0f}k {name}/s"
    return f"{tokens:,.0f} {name}/s" if tokens else f"{units:,.1f}/s"


class Rate:
    r"""Something a second: $\sum_i e^{-a_i / \tau} n_i / \sum_i e^{-a_i / \tau} t_i$.

    $n_i$ is what came in the $t_i$ seconds before the i-th call, $a_i$ the age of that, and $\tau$ is `RECENT`.
    """

    def __init__(self) -> None:
        self.last, self.number, self.seconds = time.monotonic(), 0.0, 0.0

    def __call__(self, number: int, paused: float = 0.0) -> float:
        """The rate after `number` more, without `paused` seconds in which something else was done."""
        now = time.monotonic()
        spent, self.last = max(now - self.last - paused, 0.0), now
        keep = math.exp(-spent / RECENT)
        self.number, self.seconds = keep * self.number + number, keep * self.seconds + spent
        return self.number / max(self.seconds, 1e-9)


def _columns(width: int) -> list[ProgressColumn]:
    columns: list[ProgressColumn] = [
        TextColumn("{task.fields[count]}"),
        BarColumn(bar_width=10),
        TextColumn("{task.fields[said]}"),
        TextColumn("{task.fields[left]}"),
    ]
    return columns if width >= ROOM_FOR_A_BAR else [columns[0], *columns[2:]]
