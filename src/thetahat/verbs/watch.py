"""A run while it trains in another process: how far it is, what it came to so far, read from its folder alone."""

import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from thetahat.core import store
from thetahat.core.errors import ThetahatError
from thetahat.core.plain import fields_as_json
from thetahat.figures.panel import Panel
from thetahat.run.config import RunConfig
from thetahat.run.folder.files import CONFIG, all_checkpoints, read_progress
from thetahat.run.log.alarms import ALARMS
from thetahat.run.log.history import History, is_evaluation, numbers_of
from thetahat.run.log.lines import Following, Line
from thetahat.run.log.metrics import HELD_OUT, METRICS, VALUES
from thetahat.run.log.rewinds import REWINDS
from thetahat.run.log.samples import SAMPLES
from thetahat.verbs.panels import panels_of

Standing = Literal["waiting", "running", "paused", "finished"]
RECENT = 50  # steps of which a rate is the mean
MOST = 3  # alarms that are shown
CURVES = "step", "tokens", "log_likelihood_per_token", "seconds"  # of a step, that are kept of all of them


@dataclass(frozen=True, slots=True)
class Watched:
    """What a run folder says at one time; nothing is known where a value is None."""

    run: str
    state: Standing  # waiting: no step was logged; paused: no process holds it, and steps are left
    step: int
    num_steps: int | None
    tokens: int
    seconds: float
    seconds_left: float | None
    tokens_per_second: float | None
    nats_per_token: float | None  # in training, mean of the last 50 steps
    gradient_norm: float | None
    learning_rate_factor: float | None
    held_out: float | None  # of the newest evaluation
    best: float | None
    best_step: int | None
    unit: str  # of both
    idle: float | None  # seconds since the newest line was written
    alarms: tuple[str, ...]  # the newest last
    num_alarms: int
    sample: Mapping[str, Any] | None  # the newest
    num_damaged: int  # lines that cannot be read

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return fields_as_json(self)


def watch(run: str | Path) -> Watched:
    """One look at a run, which another process may be training; a run that has not begun is one that waits."""
    return Watching(Path(run)).look()


@final
class Watching:
    """Looks at a run again and again, and reads each time what was added."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._files = {name: Following(run / name) for name in (METRICS, ALARMS, SAMPLES, REWINDS)}
        self._steps: dict[int, list[float]] = {}  # by step: CURVES
        self._evaluations: dict[int, dict[str, float]] = {}
        self._alarms: list[Line] = []
        self._back: list[Line] = []  # alarms that took it back, which are no more in the file of the others
        self._last: Mapping[str, Any] = {}
        self._sample: Line | None = None

    def look(self) -> Watched:
        """What there is now."""
        is_held = store.is_held(self.run)  # before the files are read: what it writes last is seen
        self._read()
        rows, num_steps = list(self._steps.values()), self._num_steps()
        step = int(rows[-1][0]) if rows else 0
        recent = rows[-RECENT - 1 :]
        spent, made = (recent[-1][3] - recent[0][3], len(recent) - 1) if len(recent) > 1 else (0.0, 0)
        is_over = num_steps is not None and step >= num_steps
        back = [one for one in self._back if not any(_is_of(one, other) for other in self._alarms)]
        alarms = sorted([*self._alarms, *back], key=lambda alarm: alarm["step"])
        held_out = {at: line[name] for at, line in self._evaluations.items() for name in VALUES if name in line}
        best = min(held_out, key=lambda at: held_out[at], default=None)
        return Watched(
            run=str(self.run),
            state="running" if is_held and rows else "waiting" if not rows else "finished" if is_over else "paused",
            step=step,
            num_steps=num_steps,
            tokens=int(rows[-1][1]) if rows else 0,
            seconds=rows[-1][3] if rows else 0.0,
            seconds_left=(num_steps - step) * spent / made if num_steps and spent and not is_over else None,
            tokens_per_second=(recent[-1][1] - recent[0][1]) / spent if spent else None,
            nats_per_token=-float(np.mean([row[2] for row in rows[-RECENT:]])) if rows else None,
            gradient_norm=self._last.get("gradient_norm"),
            learning_rate_factor=self._last.get("learning_rate_factor"),
            held_out=held_out[max(held_out)] if held_out else None,
            best=None if best is None else held_out[best],
            best_step=best,
            unit=self._unit(),
            idle=self._idle(),
            alarms=tuple(map(_told, alarms[-MOST:])),
            num_alarms=len(alarms),
            sample=self._sample,
            num_damaged=sum(file.num_damaged for file in self._files.values()),
        )

    def _read(self) -> None:
        lines, is_anew = self._files[METRICS].read()
        if is_anew:
            self._steps, self._evaluations = {}, {}
        for line in lines:
            if not isinstance(step := line.get("step"), int):
                continue
            if is_evaluation(line):
                self._evaluations[step] = numbers_of(line)
            elif "log_likelihood_per_token" in line:
                self._last = line
                if step in self._steps:  # a resumed run makes it again
                    self._steps = {at: row for at, row in self._steps.items() if at < step}
                self._steps[step] = [float(line.get(name, np.nan)) for name in CURVES]
        alarms, is_anew = self._files[ALARMS].read()
        self._alarms = [*([] if is_anew else self._alarms), *_with_step(alarms)]
        rewinds, is_anew = self._files[REWINDS].read()
        back = _with_step(one for line in rewinds for one in line.get("alarms", ()))
        self._back = [*([] if is_anew else self._back), *back]
        samples, _ = self._files[SAMPLES].read()
        self._sample = samples[-1] if samples else self._sample

    def _num_steps(self) -> int | None:
        """Where it ends, as its newest checkpoint knows, or else its config."""
        with suppress(OSError, ValueError, KeyError, ThetahatError):
            if checkpoints := all_checkpoints(self.run):
                return int(read_progress(checkpoints[-1])["num_steps"])
            return int(tomllib.loads((self.run / CONFIG).read_text(encoding="utf-8"))["max_steps"])
        return None

    def _unit(self) -> str:
        of_labels = any(VALUES[1] in line for line in self._evaluations.values())
        return "nats per label" if of_labels else "bits per byte"

    def _idle(self) -> float | None:
        try:
            return max(time.time() - (self.run / METRICS).stat().st_mtime, 0.0)
        except OSError:
            return None

    @property
    def name(self) -> str:
        """What it is called in a figure."""
        return self.run.name

    @property
    def config(self) -> RunConfig | None:
        """Not needed for a curve."""
        return None

    @property
    def history(self) -> History:
        """Its curve of training, and its evaluations."""
        steps = np.array(list(self._steps.values()), np.float64).reshape(-1, len(CURVES)).T
        rows = [self._evaluations[at] for at in sorted(self._evaluations)]
        found = [{name.removeprefix(HELD_OUT): value for name, value in row.items()} for row in rows]
        names = dict.fromkeys(("step", *(name for row in found for name in row)))
        evaluations = {name: np.array([row.get(name, np.nan) for row in found], np.float64) for name in names}
        return History(dict(zip(CURVES, steps, strict=True)), evaluations, ())

    def panels(self) -> Sequence[Panel]:
        """Nats a target, of training and held out; of a classifier of training alone."""
        return [*panels_of([self], ("likelihood",), max(len(self._steps) // 60, 1)).values()] if self._steps else []


def _with_step(lines: Iterable[Line]) -> list[Line]:
    return [line for line in lines if isinstance(line.get("step"), int)]


def _is_of(one: Line, other: Line) -> bool:
    """Whether an alarm is that of the same failure in the same step."""
    return (one.get("name"), one["step"]) == (other.get("name"), other.get("step"))


def _told(alarm: Line) -> str:
    return f"step {alarm.get('step')} {alarm.get('name')} ({alarm.get('severity')}): {alarm.get('what')}"
