"""Two runs side by side: up to which step they are one, and what differed first."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from thetahat.core.plain import fields_as_json
from thetahat.diagnosis.causes.case import Case

Signal = Literal["batch", "targets", "learning rate", "log-likelihood", "gradient norm"]
COLUMNS: dict[Signal, str] = {
    "targets": "tokens",
    "log-likelihood": "log_likelihood_per_token",
    "gradient norm": "gradient_norm",
    "learning rate": "learning_rate_factor",
}
"""In the order in which a step makes them: it reads, sums, measures the gradient, and moves."""
BY_ROUNDING = 1e-5  # relative difference, which another order of sums makes in float32


@dataclass(frozen=True, slots=True)
class Departure:
    """The first step in which a signal of two runs differs."""

    signal: Signal
    step: int
    ours: float | str
    theirs: float | str

    @property
    def relative(self) -> float:
        """How far apart they are, over the larger one; NaN of what is no number."""
        if isinstance(self.ours, str) or isinstance(self.theirs, str):
            return math.nan
        return abs(self.ours - self.theirs) / max(abs(self.ours), abs(self.theirs), 1e-300)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two runs part, by signal; what a step makes first comes first."""

    num_steps: int  # that both have
    departures: tuple[Departure, ...]
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return fields_as_json(self)


def divergence(ours: Case, theirs: Case) -> Divergence:
    """Compares every step that both have logged, bit by bit."""
    shared, mine, yours = np.intersect1d(ours.step, theirs.step, return_indices=True)
    found = list(_batches(ours, theirs, shared.astype(np.int64).tolist()))
    for signal, name in COLUMNS.items():
        if name not in ours.steps or name not in theirs.steps:
            continue
        a, b = ours.column(name)[mine], theirs.column(name)[yours]
        differs = np.flatnonzero(~((a == b) | (np.isnan(a) & np.isnan(b))))
        if len(differs):
            first = differs[0]
            found.append(Departure(signal, int(shared[first]), float(a[first]), float(b[first])))
    found.sort(key=lambda one: one.step)  # stable: in one step, as a step makes them
    return Divergence(len(shared), tuple(found), _verdict(found, len(shared), shared))


def _batches(ours: Case, theirs: Case, shared: list[int]) -> Iterator[Departure]:
    for step in shared:
        a, b = ours.batches.get(step), theirs.batches.get(step)
        if a is not None and b is not None and a != b:
            yield Departure("batch", step, a, b)
            return


def _verdict(found: list[Departure], count: int, shared: Any) -> str:
    if not count:
        return "they have no step in common"
    if not found:
        return f"they are the same, bit for bit, in all {count:,} steps that both have logged"
    first = found[0]
    begins = first.step == int(shared[0])
    match first.signal:
        case "batch" | "targets":
            what = "what was read: other sequences, or another order"
        case "learning rate":
            what = "the learning rate; numbers follow from the step after it on"
        case "log-likelihood":
            what = "numbers, on the same batch: " + (
                "the first parameters, or how they compute" if begins else "the update before, or how it was computed"
            )
        case "gradient norm":
            what = "numbers, on the same batch and at the same likelihood: how gradients are computed"
    size = f", by rounding ({first.relative:.1g} of it)" if first.relative < BY_ROUNDING else ""
    return f"from step {first.step:,} on{size}: {what}"
