"""How a run looks: a progress bar on a terminal, plain lines elsewhere."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from thetahat.cli.words import emit, escape, say
from thetahat.generation.sample import Sampling
from thetahat.run.config import RunConfig
from thetahat.run.log.report import Report
from thetahat.verbs.generate import generate
from thetahat.verbs.load import load

Show = Callable[[Report], None]
ROOM_FOR_A_BAR = 100  # columns of a terminal


def announce(config: RunConfig, folder: Path) -> None:
    """One line before anything takes time."""
    say(f"{config.recipe}: {config.data.train} -> {folder}")


@contextmanager
def progress(config: RunConfig, *, shown: bool) -> Generator[Show]:
    """Something to call with every report."""
    if not shown:
        yield lambda report: None
    elif sys.stderr.isatty():
        with _bar() as bar:
            yield _BarShow(bar)
    else:
        yield _LineShow()


def conclude(outcome: dict[str, Any], config: RunConfig, folder: Path) -> None:
    """The numbers, a continuation of the prompt, and what to type next."""
    say(f"{folder} was finished before; nothing was done. Its result:" if outcome["finished_before"] else "")
    if outcome["held_out_bits_per_byte"] is not None:
        bits = outcome["held_out_bits_per_byte"]
        say(f"held-out text, all of it: {bits:.4f} bits per byte after step {outcome['step']}")
    say(f"{outcome['tokens']:,} tokens in {outcome['seconds']:.0f} s; saved in {outcome['checkpoint']}")
    is_bundled = config.data.train.startswith("bundled:")
    prompt = config.prompt if is_bundled else ""  # a recipe's prompt goes with its text
    if config.prompt:
        say("\nIt goes on like this:\n")
        emit(escape(prompt), end="")
        for text in generate(load(str(folder)), prompt, Sampling(temperature=0.8, max_tokens=120)):
            emit(escape(text), end="")
        emit("")
    if outcome["step"] < config.max_steps and config.max_tokens is None:
        say(f"\nPaused after step {outcome['step']} of {config.max_steps}. Next: the same command goes on.")
        return
    run = shlex.quote(str(folder))
    say("\nNext:")
    say(f"  {_program()} generate {run} --max-tokens 500    more of it")
    say(f"  {_program()} score {run} OTHER.txt    how likely another text is")
    if is_bundled:
        say(f"  {_program()} train data.train=YOUR.txt    the same on your own text")


def _program() -> str:
    """What to type so that a shell finds this command, inside an activated environment and outside of it."""
    started = Path(sys.argv[0])
    if shutil.which("thetahat") or started.name != "thetahat":
        return "thetahat"
    return os.path.relpath(started)


class _BarShow:
    def __init__(self, bar: Progress) -> None:
        self.bar, self.task, self.held_out, self.rate = bar, None, "", _Rate()

    def __call__(self, report: Report) -> None:
        if report.held_out:
            self.held_out = f"{report.held_out.bits_per_byte:.3f}"
        if report.step is None:  # the next step says it, too
            return
        if self.task is None:
            done = report.step.step - 1
            self.task = self.bar.add_task("", total=report.num_steps, completed=done, nats=0.0, held_out="-", rate=0.0)
        self.bar.update(
            self.task,
            completed=report.step.step,
            nats=report.step.total.mean().item(),
            held_out=self.held_out or "-",
            rate=self.rate(report),
        )


class _LineShow:
    """At most a line every few seconds, and one for every evaluation."""

    def __init__(self) -> None:
        self.last, self.rate = 0.0, _Rate()

    def __call__(self, report: Report) -> None:
        if report.step is None:
            bits = report.held_out.bits_per_byte if report.held_out else None
            say(f"held-out {bits:.4f} bits/byte, made up for") if bits is not None else None
            return
        rate, now = self.rate(report), time.monotonic()
        if not report.held_out and now - self.last < 10 and report.step.step < report.num_steps:
            return
        self.last = now
        left = (report.num_steps - report.step.step) * self.rate.seconds_a_step
        held_out = f"  held-out {report.held_out.bits_per_byte:.4f} bits/byte" if report.held_out else ""
        say(
            f"step {report.step.step}/{report.num_steps}  log-likelihood {report.step.total.mean().item():.4f}/token"
            f"{held_out}  {rate:,.0f} tokens/s  {left:.0f} s left"
        )


class _Rate:
    """Tokens per second, smoothed over the last steps."""

    def __init__(self) -> None:
        self.seconds_a_step, self.value, self.last = 0.0, 0.0, time.monotonic()

    def __call__(self, report: Report) -> float:
        now = time.monotonic()
        spent, self.last = max(now - self.last, 1e-9), now
        keep = 0.9 if self.value else 0.0
        self.seconds_a_step = keep * self.seconds_a_step + (1 - keep) * spent
        num_tokens = report.step.num_tokens if report.step else 0
        self.value = keep * self.value + (1 - keep) * num_tokens / spent
        return self.value


def _bar() -> Progress:
    console = Console(stderr=True)
    columns: list[ProgressColumn] = [
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("log-likelihood {task.fields[nats]:.3f}/token"),
        TextColumn("held-out {task.fields[held_out]} bits/byte"),
        TextColumn("{task.fields[rate]:,.0f} tok/s"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    ]
    if console.width >= ROOM_FOR_A_BAR:
        columns.insert(1, BarColumn(bar_width=10))
    return Progress(*columns, console=console)
