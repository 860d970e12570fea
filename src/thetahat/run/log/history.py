"""The curves of a run, from metrics.jsonl: one array a number, for its steps and for its evaluations."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from thetahat.run.log.metrics import HELD_OUT, METRICS, TIMES

Column = NDArray[np.float64]
Columns = Mapping[str, Column]
SHOWN = 3  # numbers of lines in a note


@dataclass(frozen=True, slots=True)
class Join:
    """Where a branched run begins: what comes before is its parent's."""

    step: int
    parent: str  # RUN@STEP


@dataclass(frozen=True, slots=True)
class History:
    """What a run logged. A value that a line does not have is NaN."""

    steps: Columns  # by the name that metrics.jsonl gives it, below a table by TABLE/NAME; rows ascend by step
    evaluations: Columns  # likewise, without the prefix `held_out_`; an interval is NAME_low and NAME_high
    notes: tuple[str, ...]  # what could not be read
    joins: tuple[Join, ...] = ()  # where it goes on from other runs, the last first
    batches: Mapping[int, str] = field(default_factory=dict[int, str])  # by step, the digest of what was read
    twice: tuple[int, ...] = ()  # steps that were logged again, with other numbers

    @property
    def last_step(self) -> int:
        """The newest step that was logged; 0 where none was."""
        return int(self.steps["step"][-1]) if len(self.steps["step"]) else 0

    def axes(self, columns: Columns) -> dict[str, Column]:
        """What rows may be drawn over: steps, targets and minutes."""
        steps, known = columns["step"], self.steps
        targets = np.interp(steps, known["step"], known["tokens"]) if len(known["step"]) else steps
        return {"step": steps, "targets": targets, "minutes": columns["seconds"] / 60}


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of metrics.jsonl by their step, and what could not be read."""

    steps: Mapping[int, Mapping[str, Any]]
    evaluations: Mapping[int, Mapping[str, Any]]
    notes: tuple[str, ...]
    twice: tuple[int, ...] = ()  # steps with two lines that are not the same


def read_metrics(run: Path) -> Lines:
    """What a run logged. Lines that are torn or damaged are left out, and a note says which."""
    path, decode = run / METRICS, msgspec.json.Decoder(dict[str, Any]).decode
    if not path.is_file():
        return Lines({}, {}, (f"there is no {METRICS}",))
    steps: dict[int, dict[str, Any]] = {}
    evaluations: dict[int, dict[str, Any]] = {}
    damaged, twice = list[int](), set[int]()
    with path.open("rb") as file:
        for number, data in enumerate(file, start=1):
            try:
                line = decode(data)
                step = int(line["step"])
            except (msgspec.DecodeError, KeyError, TypeError, ValueError):
                damaged.append(number)
                continue
            table = evaluations if is_evaluation(line) else steps
            if table is steps and step in steps and _untimed(steps[step]) != _untimed(line):
                twice.add(step)
            table[step] = line
    notes = [f"{METRICS}: {told_lines(damaged)} cannot be read, and left out"] if damaged else []
    if lost := _lost(sorted(steps)):
        notes.append(f"{METRICS}: {lost} are missing")
    return Lines(steps, evaluations, tuple(notes), tuple(sorted(twice)))


def read_history(run: Path) -> History:
    """The curves of a run folder, from the lines that can be read."""
    lines = read_metrics(run)
    steps, evaluations = lines.steps, lines.evaluations
    found = [{_short(name): value for name, value in evaluations[step].items()} for step in sorted(evaluations)]
    batches = {step: line["batch"] for step, line in steps.items() if isinstance(line.get("batch"), str)}
    made = _columns([steps[step] for step in sorted(steps)])
    return History(made, _columns(found), lines.notes, batches=batches, twice=lines.twice)


def _untimed(line: Mapping[str, Any]) -> dict[str, Any]:
    """What a step that is made again must log again."""
    return {name: value for name, value in line.items() if name not in TIMES}


def is_evaluation(line: Mapping[str, Any]) -> bool:
    """Whether a line of metrics.jsonl is that of an evaluation; else it is that of a step."""
    return any(name.startswith(HELD_OUT) for name in line)


def _short(name: str) -> str:
    return name.removeprefix(HELD_OUT)


def _columns(lines: Iterable[Mapping[str, Any]]) -> Columns:
    rows = [numbers_of(line) for line in lines]
    names = dict.fromkeys(("step", *(name for row in rows for name in row)))
    return {name: np.array([row.get(name, np.nan) for row in rows], np.float64) for name in names}


def numbers_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line and of the tables in it; of an interval both ends. Text is no curve."""
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, int | float):
            found[name] = float(value)
        elif isinstance(value, dict):
            below: Mapping[str, Any] = value
            found |= {f"{name}/{one}": number for one, number in numbers_of(below).items()}
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(end, int | float) for end in value):
            found |= {f"{name}_low": float(value[0]), f"{name}_high": float(value[1])}
    return found


def told_lines(numbers: list[int]) -> str:
    """The numbers of lines, the first of many."""
    shown = ", ".join(f"{number:,}" for number in numbers[:SHOWN])
    more = f" and {len(numbers) - SHOWN:,} more" if len(numbers) > SHOWN else ""
    return f"line{'s' * (len(numbers) > 1)} {shown}{more}"


def _lost(steps: list[int]) -> str:
    """The steps between the first and the last that are not there."""
    gaps = [(before + 1, after - 1) for before, after in itertools.pairwise(steps) if after > before + 1]
    shown = ", ".join(f"{low:,} to {high:,}" if high > low else f"{low:,}" for low, high in gaps[:SHOWN])
    return f"steps {shown}{', ...' if len(gaps) > SHOWN else ''}" if gaps else ""
