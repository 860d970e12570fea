"""What a tracker is to us: something that takes what a run has logged, by step, and knows how far it has come."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from thetahat.core.errors import ConfigError
from thetahat.run.config import Tracker
from thetahat.run.log.history import numbers_of
from thetahat.run.log.metrics import HELD_OUT

Kind = Literal["step", "evaluation", "alarm", "sample"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PROJECT = "thetahat"  # unless a variable of the library's own names another
NEEDED: Mapping[Tracker, tuple[str, ...]] = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "mlflow": ("mlflow", "sqlalchemy"),
}


@dataclass(frozen=True, slots=True)
class Followed:
    """The run that is shown."""

    run: Path  # its folder
    folder: Path  # for what trackers write beside it
    id: str  # the same however often the run is resumed, and wherever it was moved
    from_step: int  # what was logged after it was made anew
    settled: int  # up to which step this tracker had it all when it was last asked; -1: never
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])  # key and value
    config_text: str = ""

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.run.name


@dataclass(frozen=True, slots=True)
class Record:
    """A line of the run, of one step."""

    kind: Kind
    step: int
    line: Mapping[str, Any]

    @property
    def order(self) -> tuple[int, int]:
        """By step; in one step an evaluation comes behind the step, and what it shows behind that."""
        return self.step, KINDS.index(self.kind)

    def numbers(self) -> dict[str, float]:
        """What of it is a curve, by names in two sections: train/... and held_out/...; tables are NAME/KEY."""
        section = "held_out/" if self.kind == "evaluation" else "train/"
        line = {name.removeprefix(HELD_OUT): value for name, value in self.line.items() if name != "step"}
        return {f"{section}{name}": value for name, value in numbers_of(line).items()}


@runtime_checkable
class Sink(Protocol):
    """A tracker, by its own library. What it raises ends its part, and nothing else."""

    where: str  # what to type, or to open, to look at it

    def begin(self, followed: Followed) -> Mapping[Kind, int]:
        """Begins the run, or goes on with it, and says up to which step it has each kind."""
        ...

    def take(self, record: Record) -> None:
        """Takes a record; steps never descend."""
        ...

    def settle(self) -> None:
        """Writes what it has taken."""
        ...

    def end(self, *, is_finished: bool) -> None:
        """Writes what it has taken, and closes the run."""
        ...


def alarm_text(line: Mapping[str, Any]) -> str:
    """An alarm as a paragraph."""
    where = f", {line['where']}" if line.get("where") else ""
    advice = f" (try: {', '.join(line['advice'])})" if line.get("advice") else ""
    return f"step {line.get('step')}{where}: {line.get('what')}{advice}"


def check_installed(names: tuple[Tracker, ...]) -> None:
    """Raises ConfigError for the first of these trackers whose library is not there, before anything is trained."""
    for name in names:
        for module in NEEDED[name]:
            found = find_spec(module)
            if found is None or found.origin is None:  # a folder of that name, as W&B makes one, is no library
                raise ConfigError(
                    f"track={name} needs the library {module}, which is not installed",
                    cure=f"pip install 'thetahat[track]', or leave {name} out of track",
                )
