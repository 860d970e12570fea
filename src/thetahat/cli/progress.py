"""How far a command is: a bar on a terminal, a plain line every ten seconds elsewhere, of large data more often."""

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
PREPARING = 1.5  # the same while large data is prepared
LARGE = 1 << 26  # bytes of data
RECENT = 20.0  # seconds, about, of which a rate is the mean
SETTLED = 2.0  # seconds from which a rate tells the time left
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
        said = f"{known or self.unit} {pace(rate, units, 'tok', is_brief=not self.is_wide)}".rstrip()
        told = {"count": f"{standing.done:,}/{standing.total:,}", "said": said}
        left = time_left(standing, self.units.settled)
        self.task = self._update(self.task, standing.done, standing.total, **told, left=left)

    def _update(self, task: TaskID | None, done: int, total: int | None, **fields: Any) -> TaskID:
        """Shows a row, a new one if there is none yet; `total` may be unknown."""
        if task is None:
            task = self.bar.add_task("", total=total, completed=done, **fields)
        self.bar.update(task, completed=done, total=total, **fields)
        return task

    def aside(self, what: str, done: int, total: int) -> None:
        told = {"count": f"{done:,}/{total:,}", "said": what, "left": self.other(done, total)}
        self.other.task = self._update(self.other.task, done, total, **told)
        if done >= total:
            self._end_aside()

    def phase(self, phase: Phase | None) -> None:
        """How far a preparation is; None: there is none, or it has ended."""
        if phase is not self.preparing.phase:
            if self.preparing.task is not None:
                self.bar.remove_task(self.preparing.task)
            self.preparing = _Preparing(phase)
        if phase is not None:
            told = {"count": counted(phase), "said": phase.name, "left": time_of(phase, self.preparing.rate())}
            self.preparing.task = self._update(self.preparing.task, phase.done, phase.total, **told)

    def _end_aside(self) -> None:
        if self.other.task is not None:
            self.bar.remove_task(self.other.task)
        self.other = _Aside()


class _Lines:
    """At most a line in `SILENCE` seconds, and one for all news."""

    def __init__(self, unit: str) -> None:
        self.unit, self.last, self.is_large = unit, time.monotonic(), False
        self.tokens, self.units, self.other, self.preparing = Rate(), Rate(), _Aside(), _Preparing()

    def __call__(self, standing: Standing) -> None:
        self.other = _Aside()
        tokens = self.tokens(standing.num_tokens, standing.paused)
        units = self.units(standing.num_new, standing.paused)
        if self._is_time(standing.is_news):
            done, left = f"{self.unit} {standing.done:,}/{standing.total:,}", time_left(standing, self.units.settled)
            say(_joined(done, standing.known, pace(tokens, units, "tokens"), left))

    def aside(self, what: str, done: int, total: int) -> None:
        left = self.other(done, total)
        if done < total and self._is_time(False):
            say(f"  {_joined(f'{what} {done:,}/{total:,}', left)}")

    def phase(self, phase: Phase | None) -> None:
        """How far a preparation is: of large data `PREPARING` seconds after the last line, else as everything."""
        if phase is not self.preparing.phase:
            self.preparing = _Preparing(phase)
        if phase is not None:
            rate = self.preparing.rate()
            self.is_large = self.is_large or (phase.total or 0) >= LARGE
            if self._is_time(False, PREPARING if self.is_large else SILENCE):
                say(_joined(phase.name, counted(phase), time_of(phase, rate)))

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
        """The time left, from the mean rate since the first call; empty where it is not known yet."""
        now = time.monotonic()
        began, first = self.started = self.started or (now, done)
        is_known = done > first and now - began >= SETTLED
        return f"{duration((total - done) * (now - began) / (done - first))} left" if is_known else ""


class _Preparing:
    """A phase, the row that shows it, and how fast it is."""

    def __init__(self, phase: Phase | None = None) -> None:
        self.phase, self._rate = phase, Rate()
        self.task: TaskID | None = None
        self._done = phase.done if phase else 0

    def rate(self) -> float:
        """Of what the phase counts, a second; 0 where that is not known yet."""
        assert self.phase
        before, self._done = self._done, self.phase.done
        self._rate(self._done - before)
        return self._rate.settled


def _joined(*parts: str) -> str:
    return "  ".join(filter(None, parts))


def time_left(standing: Standing, units: float) -> str:
    """The time until the end at this rate; empty where it is not known yet, and at the end."""
    left = standing.total - standing.done
    return f"{duration(left / units + standing.later)} left" if units and left else ""


def pace(tokens: float, units: float, name: str, *, is_brief: bool = False) -> str:
    """Tokens a second; of what is not counted in tokens, how many of them; empty where neither is known yet."""
    if not tokens and not units:
        return ""
    if is_brief and tokens >= 100_000:
        return f"{tokens / 1e3:,.0f}k {name}/s"
    return f"{tokens:,.0f} {name}/s" if tokens else f"{units:,.1f}/s"


class Rate:
    r"""Something a second: $\sum_i e^{-a_i / \tau} n_i / \sum_i e^{-a_i / \tau} t_i$.

    $n_i$ is what came in the $t_i$ seconds before the i-th call, $a_i$ the age of that, and $\tau$ is `RECENT`. The
    first call starts the clock: what is begun with takes another time than the rest.
    """

    def __init__(self) -> None:
        self.last: float | None = None
        self.number, self.seconds, self.seen = 0.0, 0.0, 0.0

    @property
    def settled(self) -> float:
        """The rate where it tells the time left; 0 until it does."""
        return self.number / self.seconds if self.seen >= SETTLED else 0.0

    def __call__(self, number: int, paused: float = 0.0) -> float:
        """The rate after `number` more, without `paused` seconds in which something else was done."""
        now = time.monotonic()
        if self.last is None:
            self.last = now
            return 0.0
        spent, self.last = max(now - self.last - paused, 0.0), now
        self.seen += spent
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
