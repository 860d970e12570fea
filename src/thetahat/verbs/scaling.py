"""Scaling laws of runs: what a larger one would come to, or one with more data, and which size is best for a budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from thetahat.core.errors import ConfigError
from thetahat.core.plain import fields_as_json
from thetahat.figures.panel import Curve, Panel
from thetahat.run.folder.trained import Trained, read_trained, refuse_unlike
from thetahat.statistics.scaling import Fit, Law, fit_law
from thetahat.verbs.plot import Plot

Kind = Literal["parameters and tokens", "parameters", "tokens", "compute"]
Interval = tuple[float, float]  # 95 %
SAME = 0.02  # of a size: runs that differ by less have the same
ON_LINE = 0.1  # of a logarithm: sizes that differ by less lie on one line
LEAST_SIZES = 3
PLACES = 40  # of a drawn curve
AXIS = "log10 of FLOPs"


@dataclass(frozen=True, slots=True)
class Measured:
    """A run beside what the law says of it."""

    run: str
    num_parameters: int
    tokens: int
    flops: float
    loss: float
    law: float  # nats per token

    @property
    def difference(self) -> float:
        """Of the loss from the law, as a share of the law."""
        return self.loss / self.law - 1


@dataclass(frozen=True, slots=True)
class Estimated:
    """A number with its interval."""

    value: float
    ci95: Interval


@dataclass(frozen=True, slots=True)
class Point:
    """What a run of this size would come to."""

    num_parameters: Estimated  # an interval where the law chose it
    tokens: Estimated
    flops: float
    loss: Estimated  # what runs of this size have on average
    run_ci95: Interval  # where the loss of one run is


@dataclass(frozen=True, slots=True)
class Scaling:
    """A law of runs, and what it says."""

    law: Kind  # what the loss is a law of
    why: str  # why it is not of more
    runs: tuple[Measured, ...]
    parameters: dict[str, Estimated]  # E, A, alpha, ... by their names in the formula
    noise: float  # standard deviation of the logarithm of a run's loss
    growth: Estimated | None  # a: the best number of parameters grows as compute to the power a
    at: tuple[Point, ...]
    budgets: tuple[Point, ...]
    fit: Fit

    @property
    def formula(self) -> str:
        """The law as it is written."""
        return "L = E" + "".join(f" + {c} / {x}^{power}" for c, x, power in _NAMES[self.law])

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        found = fields_as_json(self) | {"formula": self.formula}
        return {name: value for name, value in found.items() if name != "fit"}

    def plot(self) -> Plot:
        """The runs over their compute, and the law where the best size is taken, or along the runs."""
        reader = _Reader(self.law, self.runs, self.fit)
        wanted = [point.flops for point in (*self.at, *self.budgets)]
        ends = [one.flops for one in self.runs] + wanted
        flops = np.geomspace(min(ends), max(ends), PLACES)
        points = [reader.budget(float(one)) for one in flops]
        columns = [np.array(values) for values in zip(*((p.loss.value, *p.loss.ci95) for p in points), strict=True)]
        name = "law, at the best size" if self.law == "parameters and tokens" else "law"
        curves = [
            Curve(name, 0, {AXIS: np.log10(flops)}, columns[0], columns[1], columns[2]),
            _dots("runs", 1, [(one.flops, one.loss, one.loss, one.loss) for one in self.runs]),
        ]
        if self.at or self.budgets:
            shown = [(p.flops, p.loss.value, *p.run_ci95) for p in (*self.at, *self.budgets)]
            curves.append(_dots("one run there", 2, shown))
        what = "Held-out loss over compute, with 95 % intervals."
        return Plot((Panel("Scaling law", what, "nats per token", curves),), AXIS, 1, ())


_NAMES: dict[Kind, list[tuple[str, str, str]]] = {
    "parameters and tokens": [("A", "N", "alpha"), ("B", "D", "beta")],
    "parameters": [("A", "N", "alpha")],
    "tokens": [("B", "D", "beta")],
    "compute": [("K", "C", "gamma")],
}


def scaling(
    *runs: str | Path,
    at: Sequence[tuple[float, float]] = (),
    flops: Sequence[float] = (),
    num_draws: int = 500,
    seed: int = 0,
) -> Scaling:
    r"""The law of finished runs, $L = E + A/N^\alpha + B/D^\beta$, and what it says of other sizes, with intervals.

    L is the held-out loss in nats per token, N the number of parameters, D that of the targets that a run learned from,
    C = 6 N D its operations. Where runs differ in N or in D alone the law has that term only; where N and D grow along
    one line, it is a law of C. `at` are pairs of N and D, `flops` budgets, for each of which the N and D with the
    lowest loss are told, or of a smaller law those that fit it. Intervals are of `statistics/scaling.py`.

    Raises ModelError for a folder that is none of a run, ConfigError for too few runs, for runs that are not finished,
    and for those that differ in data, tokenizer, objective or in what is held out. Hoffmann et al., 2022, arXiv
    2203.15556; Besiroglu et al., 2024, arXiv 2404.10102.
    """
    trained = [read_trained(Path(run)) for run in dict.fromkeys(map(str, runs))]
    if not trained:
        raise ConfigError("no run was named", allowed="run folders", cure="thetahat scaling runs/*")
    refuse_unlike(trained)
    _check_sizes([*(number for pair in at for number in pair), *flops])
    law, why = _kind_of(trained)
    fit = fit_law(_sizes(law, trained), np.array([one.loss for one in trained]), num_draws=num_draws, seed=seed)
    measured = tuple(
        Measured(one.run, one.num_parameters, one.tokens, one.flops, one.loss, float(fit.law.loss(*size)))
        for one, size in zip(trained, _sizes(law, trained), strict=True)
    )
    reader = _Reader(law, measured, fit)
    return Scaling(
        law=law,
        why=why,
        runs=measured,
        parameters=reader.parameters(),
        noise=fit.noise,
        growth=reader.estimated(_growth) if law == "parameters and tokens" else None,
        at=tuple(reader.point(float(n), float(d)) for n, d in at),
        budgets=tuple(reader.budget(float(budget)) for budget in flops),
        fit=fit,
    )


def _check_sizes(sizes: Sequence[float]) -> None:
    for size in sizes:
        if not 1 <= size < float("inf"):
            raise ConfigError(f"a size of {size:g}", allowed="a number of 1 or more, for example 1e9")


def _kind_of(runs: Sequence[Trained]) -> tuple[Kind, str]:
    """What a law of these runs can be of, and why not of more."""
    n, d = (np.log([getattr(one, name) for one in runs]) for name in ("num_parameters", "tokens"))
    numbers = _distinct(n), _distinct(d)
    if numbers == (1, 1):
        raise ConfigError("all runs have one size and as many tokens", allowed="runs that differ in either, or in both")
    if numbers[1] == 1:
        law: Kind = "parameters"
        return _with_sizes(law, numbers[0], f"all runs learned from {runs[0].tokens:,} tokens")
    if numbers[0] == 1:
        return _with_sizes("tokens", numbers[1], f"all runs have {runs[0].num_parameters:,} parameters")
    slope, start = np.polyfit(n, d, 1)
    if np.abs(d - (slope * n + start)).max() < ON_LINE:
        return _with_sizes("compute", numbers[0], "parameters and tokens grow along one line")
    return _with_sizes("parameters and tokens", min(numbers), "")


def _with_sizes(law: Kind, number: int, why: str) -> tuple[Kind, str]:
    if number < LEAST_SIZES:
        raise ConfigError(
            f"{number} sizes for a law of {law}", allowed=f"{LEAST_SIZES} or more, which differ by {SAME:.0%} at least"
        )
    return law, why


def _distinct(logarithms: NDArray[np.float64]) -> int:
    return 1 + int((np.diff(np.sort(logarithms)) > SAME).sum())


def _sizes(law: Kind, runs: Sequence[Trained | Measured]) -> NDArray[np.float64]:
    of: dict[str, Callable[[Any], float]] = {
        "N": lambda one: one.num_parameters,
        "D": lambda one: one.tokens,
        "C": lambda one: one.flops,
    }
    return np.array([[of[name](one) for _, name, _ in _NAMES[law]] for one in runs], np.float64)


def _growth(law: Law) -> float:
    """The power of compute with which the best number of parameters grows."""
    alpha, beta = law.exponents
    return beta / (alpha + beta)


def best_size(law: Law, flops: float) -> tuple[float, float]:
    r"""The N and D with C = 6 N D at which the loss is lowest.

    $N = G (C/6)^a$ and $D = (C/6)^{1-a} / G$, with $a = \beta / (\alpha + \beta)$ and
    $G = (\alpha A / \beta B)^{1 / (\alpha + \beta)}$.
    """
    (a, b), (alpha, beta) = law.coefficients, law.exponents
    log_g = np.log((alpha * a) / (beta * b)) / (alpha + beta)
    share = _growth(law)
    size = np.exp(np.clip(log_g + share * np.log(flops / 6), -700, 700))
    return float(size), float(flops / 6 / size)


@dataclass(frozen=True, slots=True)
class _Reader:
    """What a fitted law says of sizes."""

    law: Kind
    runs: Sequence[Measured]
    fit: Fit

    def parameters(self) -> dict[str, Estimated]:
        found = {"E": self.estimated(lambda law: law.floor)}
        for place, (coefficient, _, power) in enumerate(_NAMES[self.law]):
            found[coefficient] = self.estimated(lambda law, k=place: law.coefficients[k])
            found[power] = self.estimated(lambda law, k=place: law.exponents[k])
        return found

    def estimated(self, quantity: Callable[[Law], float]) -> Estimated:
        return Estimated(float(quantity(self.fit.law)), self.fit.interval(quantity))

    def point(self, num_parameters: float, tokens: float) -> Point:
        """Of a size that was named; one of which the law says nothing is an error."""
        on_line = self._along(6 * num_parameters * tokens)
        if self.law != "parameters and tokens" and abs(np.log(num_parameters / on_line[0])) > ON_LINE:
            raise ConfigError(
                f"--at {num_parameters:g},{tokens:g} is not where the law of {self.law} is known",
                allowed=f"of these operations {on_line[0]:.3g} parameters and {on_line[1]:.3g} tokens",
                cure="runs that differ in both, and not along one line",
            )
        return self._point(num_parameters, tokens)

    def budget(self, flops: float) -> Point:
        """Of the best size, or of the only one that the law speaks of."""
        if self.law != "parameters and tokens":
            return self._point(*self._along(flops))
        size, tokens = best_size(self.fit.law, flops)
        point = self._point(size, tokens)
        return Point(
            self.estimated(lambda law: best_size(law, flops)[0]),
            self.estimated(lambda law: best_size(law, flops)[1]),
            flops,
            self.estimated(lambda law: float(law.loss(*best_size(law, flops)))),
            point.run_ci95,
        )

    def _point(self, num_parameters: float, tokens: float) -> Point:
        flops = 6 * num_parameters * tokens
        by_name = {"N": num_parameters, "D": tokens, "C": flops}
        sizes = [by_name[name] for _, name, _ in _NAMES[self.law]]
        return Point(
            Estimated(num_parameters, (num_parameters, num_parameters)),
            Estimated(tokens, (tokens, tokens)),
            flops,
            self.estimated(lambda law: float(law.loss(*sizes))),
            self.fit.interval_of_run(sizes),
        )

    def _along(self, flops: float) -> tuple[float, float]:
        """The N and D with these operations on the line of the runs."""
        if self.law == "parameters and tokens":
            return best_size(self.fit.law, flops)
        log_n = np.log([one.num_parameters for one in self.runs])
        log_c = np.log([one.flops for one in self.runs])
        slope, start = np.polyfit(log_c, log_n, 1)
        size = float(np.exp(slope * np.log(flops) + start))
        return size, flops / 6 / size


def _dots(name: str, colour: int, rows: Sequence[tuple[float, float, float, float]]) -> Curve:
    flops, loss, low, high = (np.array(column) for column in zip(*sorted(rows), strict=True))
    return Curve(name, colour, {AXIS: np.log10(flops)}, loss, low, high, has_points=True)
