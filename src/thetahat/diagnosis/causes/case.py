"""What is known of a run that is judged: arrays of numbers, alarms, and what its config says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from thetahat.diagnosis.alarms.alarm import Alarm
from thetahat.diagnosis.finding import Finding
from thetahat.optimization.config import OptimizationConfig

Column = NDArray[np.float64]
Columns = Mapping[str, Column]
_NONE: Column = np.zeros(0)


@dataclass(frozen=True, slots=True)
class Rows:
    """The ledger of a run as arrays: a row for each part of a record in each step."""

    step: Int64[np.ndarray, " n"]
    targets: Int64[np.ndarray, " n"]
    nats: Float64[np.ndarray, " n"]  # -log Pr of all targets of the row
    record: Int64[np.ndarray, " n"]  # the number of its id
    source: Int64[np.ndarray, " n"]
    text: Int64[np.ndarray, " n"]  # the same number: the same text
    ids: Sequence[str]  # by number
    sources: Sequence[str]


@dataclass(frozen=True, slots=True)
class Restart:
    """Where a run went on, and what of the environment was other than when it began."""

    step: int
    changed: Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """A run as far as its folder tells."""

    steps: Columns  # as run.log.history has them
    evaluations: Columns = field(default_factory=dict[str, Column])
    batches: Mapping[int, str] = field(default_factory=dict[int, str])
    twice: Sequence[int] = ()
    alarms: Sequence[Alarm] = ()
    findings: Sequence[Finding] | None = None  # before the first step; None: nothing was looked for
    restarts: Sequence[Restart] = ()
    rules: OptimizationConfig | None = None
    num_steps: int | None = None  # where the schedule ends
    first_step: int = 0  # updates that its parent had made
    is_drawn: bool = False  # its parameters were drawn
    every: int = 0  # steps between two measurements inside the model
    is_watched: bool = False  # alarms were raised
    rows: Rows | None = None
    is_on_cpu: bool = False  # steps make their batches themselves, and do not only wait for them

    @cached_property
    def step(self) -> Column:
        """The steps that were logged."""
        return self.column("step")

    @cached_property
    def nats(self) -> Column:
        """Nats a target of each."""
        return -self.column("log_likelihood_per_token")

    @cached_property
    def seconds(self) -> Column:
        """Seconds of each step, from its speed; NaN where it is not known."""
        tokens = np.diff(self.column("tokens"), prepend=0.0 if len(self.step) and self.step[0] == 1 else np.nan)
        speed = self.column("tokens_per_second")
        return np.divide(tokens, speed, out=np.full(len(speed), np.nan), where=speed > 0)

    def column(self, name: str) -> Column:
        """A column of the steps; NaN in all of them where it was not logged."""
        found = self.steps.get(name)
        return np.full(len(self.steps.get("step", _NONE)), np.nan) if found is None else found

    def alarmed(self, *names: str) -> bool:
        """Whether one of these alarms was raised."""
        return any(alarm.name in names for alarm in self.alarms)
