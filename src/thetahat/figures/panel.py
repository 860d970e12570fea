"""What a figure of runs shows, whatever draws it: curves over one axis, in panels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a panel; where `low` and `high` are there, with an interval at each point."""

    name: str
    colour: int  # the number of its run
    x: Mapping[str, Column]  # by the name of each axis that may be chosen
    y: Column
    low: Column | None = None
    high: Column | None = None
    has_points: bool = False  # marks instead of a thin line: evaluations
    before: Column | None = None  # the values that were smoothed


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line: where a run was branched from another."""

    name: str
    colour: int  # the number of its run
    x: Mapping[str, float]  # by the name of each axis that may be chosen


@dataclass(frozen=True, slots=True)
class Events:
    """What happened at some places, under one name."""

    name: str
    colour: int
    x: Mapping[str, Column]  # by the name of each axis that may be chosen
    said: Sequence[str]  # of each


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over one axis."""

    title: str
    what: str  # a sentence below the title, which says how to read it
    unit: str
    curves: Sequence[Curve]
    is_log: bool = False
    limit: tuple[float, str] | None = None  # a horizontal line with its name
    marks: Sequence[Mark] = ()


def smoothed(values: Column, size: int) -> Column:
    """At each place the mean of it and of those before it, `size` of them where there are so many."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - size, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
