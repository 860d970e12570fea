"""How far scoring is: a bar on a terminal, a plain line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from thetahat.cli.words import say

Shows = Callable[[int, int], None]


@contextmanager
def tokens_progress(*, shown: bool) -> Generator[Shows]:
    """Something to call with the tokens that are done and the tokens that there are."""
    if not shown:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        counts = TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens  {task.fields[rate]:,.0f} tokens/s")
        console, started = Console(stderr=True), time.monotonic()
        with Progress(BarColumn(bar_width=20), counts, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task("", total=1, visible=False, rate=0.0)

            def show(done: int, total: int) -> None:
                rate = done / max(time.monotonic() - started, 1e-9)
                bar.update(task, completed=done, total=total, visible=True, rate=rate)

            yield show
    else:
        yield _lines()


def _lines() -> Shows:
    started = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 10 and done:
            last, rate = now, done / (now - started)
            say(f"{done:,} of {total:,} tokens  {rate:,.0f} tokens/s  {(total - done) / rate:.0f} s left")

    return show


@contextmanager
def steps_progress(what: str, *, shown: bool) -> Generator[Shows]:
    """The same for a few long steps."""
    if shown and sys.stderr.isatty():
        counts = TextColumn("{task.completed:.0f}/{task.total:.0f} " + what)
        with Progress(
            BarColumn(bar_width=20), counts, TimeRemainingColumn(), console=Console(stderr=True), transient=True
        ) as bar:
            task = bar.add_task("", total=1, visible=False)
            yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
    else:
        yield lambda done, total: say(f"{done} of {total} {what}") if shown else None
