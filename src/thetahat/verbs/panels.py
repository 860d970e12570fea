"""The curves of runs, in panels, for whatever draws them."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from thetahat.core.plain import shorter
from thetahat.diagnosis.alarms.alarm import Alarm
from thetahat.figures.page import printable
from thetahat.figures.panel import Curve, Events, Mark, Panel, smoothed
from thetahat.run.config import RunConfig
from thetahat.run.log.history import History

AXES = ("step", "targets", "minutes")
PANELS: dict[str, tuple[str, str, str]] = {
    "likelihood": (
        "Nats per token",
        "−log Pr of a target: in training (line), and held out (points, with their 95 % intervals). Lower is better.",
        "nats",
    ),
    "bits": ("Held-out bits per byte", "Does not depend on the tokenizer. Lower is better.", "bits per byte"),
    "gradient": ("Norm of the gradient", "Before clipping, of the objective of the whole batch.", "norm"),
    "rate": ("Learning rate", "As a share of its peak.", "share of the peak"),
    "updates": (
        "Size of updates",
        "RMS over that of the parameters: median of the parts of the model that moved, and from least to greatest.",
        "update / parameters",
    ),
    "speed": ("Targets a second", "Of training steps, without evaluations.", "targets a second"),
}
UPDATES = "signals/update_ratio/"  # columns of a history, one for each part of the model
MOST_STROKES = 200  # of the alarms of one name
MOST_NAMES = 24  # of alarms
MOST_SAID = 160  # characters of one
_COLUMNS = {"gradient": "gradient_norm", "rate": "learning_rate_factor", "speed": "tokens_per_second"}


@runtime_checkable
class Logged(Protocol):
    """A run as far as it is drawn."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def history(self) -> History:
        """What it logged."""
        ...

    @property
    def config(self) -> RunConfig | None:
        """Its config, if that can be read."""
        ...


@runtime_checkable
class Alarmed(Logged, Protocol):
    """A run whose alarms are drawn, too."""

    @property
    def alarms(self) -> Sequence[Alarm]:
        """What it had."""
        ...


def panels_of(runs: Sequence[Logged], names: Sequence[str] = tuple(PANELS), smooth: int = 1) -> dict[str, Panel]:
    """The panels for which some run has logged something; lines are means of `smooth` steps."""
    found: dict[str, Panel] = {}
    for name in names:
        title, what, unit = PANELS[name]
        curves = [curve for number in range(len(runs)) for curve in _curves(name, runs, number, smooth)]
        if not curves:
            continue
        clips = {run.config.optimization.clip for run in runs if run.config}
        clip = clips.pop() if name == "gradient" and len(clips) == 1 else None
        limit = (clip, f"clipped to {clip:g}") if clip else None
        marks = [mark for number in range(len(runs)) for mark in _marks(runs, number)]
        found[name] = Panel(title, what, unit, curves, is_log=name in ("gradient", "updates"), limit=limit, marks=marks)
    return found


def alarms_of(runs: Sequence[Alarmed]) -> list[Events]:
    """The alarms of runs by their names, the most frequent first; of very many, some from the first to the last."""
    return [events for number in range(len(runs)) for events in _alarms(runs, number)][:MOST_NAMES]


def _alarms(runs: Sequence[Alarmed], number: int) -> list[Events]:
    run, found, is_alone = runs[number], list[Events](), len(runs) == 1
    if not len(known := run.history.steps["step"]):
        return []
    axes = run.history.axes(run.history.steps)
    for name, count in Counter(alarm.name for alarm in run.alarms).most_common():
        alarms = sorted((alarm for alarm in run.alarms if alarm.name == name), key=lambda alarm: alarm.step)
        shown = [alarms[place] for place in np.unique(np.linspace(0, count - 1, MOST_STROKES).astype(int))]
        steps = np.array([alarm.step for alarm in shown], np.float64)
        at = {axis: np.interp(steps, known, values) for axis, values in axes.items()}
        said = [shorter(printable(alarm.what), MOST_SAID) for alarm in shown]
        told = name if count == 1 else f"{name} ({count:,})"
        found.append(Events(told if is_alone else f"{run.name}: {told}", 1 if is_alone else number, at, said))
    return found


def _marks(runs: Sequence[Logged], number: int) -> list[Mark]:
    """Where a run goes on from its parents."""
    run, found = runs[number], list[Mark]()
    steps, of_run = run.history.steps, "" if len(runs) == 1 else f"{run.name}, "
    axes = run.history.axes(steps)
    for join in run.history.joins if len(steps["step"]) else ():
        place = int(np.searchsorted(steps["step"], join.step))
        if place < len(steps["step"]):
            at = {axis: float(values[place]) for axis, values in axes.items()}
            found.append(Mark(f"{of_run}branched from {join.parent}", number, at))
    return found


def _curves(panel: str, runs: Sequence[Logged], number: int, smooth: int) -> list[Curve]:
    run, is_alone = runs[number], len(runs) == 1
    steps, of_run, held_out = run.history.steps, "" if is_alone else f"{run.name}, ", 1 if is_alone else number
    found: list[Curve] = []
    match panel:
        case "likelihood":
            found += _line(run.history, "log_likelihood_per_token", f"{of_run}training", (number, smooth), sign=-1)
            found += _held_out(run.history, "nats_per_token", f"{of_run}held out", held_out)
        case "bits":
            found += _held_out(run.history, "bits_per_byte", run.name, number)
        case "updates":
            found += _updates(run.history, run.name, number)
        case _:
            size = 1 if panel == "rate" else smooth
            found += _line(run.history, _COLUMNS[panel], run.name, (number, size)) if steps else []
    return [curve for curve in found if len(curve.y)]


def _line(history: History, column: str, name: str, drawn: tuple[int, int], sign: int = 1) -> list[Curve]:
    number, smooth = drawn
    if column not in history.steps:
        return []
    values = sign * history.steps[column]
    x = history.axes(history.steps)
    if smooth <= 1:
        return [Curve(name, number, x, values)]
    return [Curve(name, number, x, smoothed(values, smooth), before=values)]


def _updates(history: History, name: str, colour: int) -> list[Curve]:
    """Of all parts of the model, at the steps at which they were measured."""
    table = np.array([values for key, values in history.steps.items() if key.startswith(UPDATES)])
    if not table.size:
        return []
    moved = np.where(table > 0, table, np.nan)
    is_known = np.isfinite(moved).any(axis=0)
    x = {axis: values[is_known] for axis, values in history.axes(history.steps).items()}
    known = moved[:, is_known]
    median, low, high = (of(known, axis=0) for of in (np.nanmedian, np.nanmin, np.nanmax))
    return [Curve(name, colour, x, median, low, high)]


def _held_out(history: History, name: str, called: str, colour: int) -> list[Curve]:
    table = history.evaluations
    if name not in table:
        return []
    known = np.isfinite(table[name])
    low, high = (table.get(f"{name}_ci95_{end}") for end in ("low", "high"))
    x = {axis: values[known] for axis, values in history.axes(table).items()}
    ends = [None if end is None else end[known] for end in (low, high)]
    return [Curve(called, colour, x, table[name][known], *ends, has_points=True)]
