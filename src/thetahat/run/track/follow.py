"""Hands what a run has logged over to trackers: the files of its folder are the source, read as they grow."""

import json
import re
import secrets
import tomllib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path
from typing import Any, final

from thetahat.core import store
from thetahat.run.config import Tracker
from thetahat.run.folder.files import CONFIG
from thetahat.run.folder.starts import flat
from thetahat.run.log.alarms import ALARMS
from thetahat.run.log.lines import Following, Line
from thetahat.run.log.metrics import HELD_OUT, METRICS
from thetahat.run.log.samples import SAMPLES
from thetahat.run.track.sink import Followed, Kind, Record, Sink

FOLDER = "track"  # in that of a run
STANDING = "track.json"  # the run's id, and by tracker up to which step it has all
Told = Callable[[str], None]
logger = getLogger("thetahat")


@final
class Follower:
    """Reads a run folder, and gives each tracker what it does not have yet.

    A tracker that raises is told once, and left out from then on. What it lacks it gets when it is followed again.
    """

    def __init__(self, run: Path, names: Sequence[Tracker], from_step: int, tells: Told) -> None:
        self.run, self._tells = run, tells
        self._sinks: dict[Tracker, Sink] = {}
        self._have: dict[Tracker, dict[Kind, int]] = {}
        self._files = {name: Following(run / name) for name in (METRICS, ALARMS, SAMPLES)}
        self._waiting: list[Record] = []  # of the last step, which may have more alarms and samples, or a later one
        self._last = 0  # step whose line was read
        self._standing = _standing(run)
        self._write()
        for name in names:
            with self._guarded(name):
                sink = self._sinks[name] = _build(name)
                self._have[name] = dict(sink.begin(self._followed(name, from_step)))
                tells(f"{name}: {sink.where}")

    def _followed(self, name: Tracker, from_step: int) -> Followed:
        folder = self.run / FOLDER
        text = (self.run / CONFIG).read_text(encoding="utf-8")
        settled, values = (
            self._standing["settled"].get(name, -1),
            {key: _plain(one) for key, one in flat(tomllib.loads(text)).items()},
        )
        return Followed(self.run, folder, self._standing["id"], from_step, settled, values, text)

    @contextmanager
    def _guarded(self, name: Tracker) -> Generator[None]:
        try:
            yield
        except Exception as error:
            logger.exception("%s", name)
            self._sinks.pop(name, None)
            what = next(iter(str(error).splitlines()), "") or type(error).__name__
            again = f"thetahat track {self.run} --to {name} brings what it lacks"
            self._tells(f"warning: {name} fails, and the run goes on without it: {what}; {again}")

    def follow(self) -> int:
        """Hands over what is new, and says how many records that were."""
        found = [*self._waiting, *(record for name in self._files for record in self._read(name))]
        self._last = max([self._last, *(record.step for record in found if record.kind == "step")])
        ready: list[Record] = []
        self._waiting = []
        for record in found:
            is_alone = record.kind in ("step", "evaluation")  # in its step; what others may follow waits for the next
            (ready if record.step < self._last + is_alone else self._waiting).append(record)
        self._hand(sorted(ready, key=lambda record: record.order))
        return len(ready)

    def _read(self, name: str) -> list[Record]:
        """The new records of a file. Where a resumed run has cut it, it is read again, and nothing is handed twice."""
        lines, _ = self._files[name].read()
        return [record for line in lines if (record := _record(name, line)) is not None]

    def _hand(self, records: Sequence[Record]) -> None:
        for name, sink in list(self._sinks.items()):
            have = self._have[name]
            with self._guarded(name):
                before = dict(have)
                for record in records:
                    if record.step > before[record.kind]:
                        sink.take(record)
                        have[record.kind] = record.step

    def settle(self) -> None:
        """Has every tracker write what it has, and notes that it has it."""
        for name, sink in list(self._sinks.items()):
            with self._guarded(name):
                sink.settle()
                self._note(name)
        self._write()

    def end(self, *, is_finished: bool) -> None:
        """Reads to the end, and closes every tracker."""
        while self.follow():
            pass
        self._hand(sorted(self._waiting, key=lambda record: record.order))  # an alarm of a step that was not made
        for name, sink in list(self._sinks.items()):
            with self._guarded(name):
                sink.end(is_finished=is_finished)
                self._note(name, is_whole=True)
        self._write()

    def _note(self, name: Tracker, *, is_whole: bool = False) -> None:
        """Only some trackers say that they have written; of the others it is known when they are closed."""
        if is_whole or name in ("tensorboard", "mlflow"):
            self._standing["settled"][name] = max(self._have[name]["step"], -1)

    def _write(self) -> None:
        if self._standing != _standing(self.run):
            (self.run / FOLDER).mkdir(exist_ok=True)
            store.write_json(self.run / FOLDER / STANDING, self._standing)


def _build(name: Tracker) -> Sink:
    """The tracker of this name; its library is loaded."""
    match name:
        case "tensorboard":
            from thetahat.run.track.tensorboard import TensorBoard

            return TensorBoard()
        case "wandb":
            from thetahat.run.track.wandb import WandB

            return WandB()
        case "trackio":
            from thetahat.run.track.trackio import Trackio

            return Trackio()
        case "mlflow":
            from thetahat.run.track.mlflow import MLflow

            return MLflow()


def _standing(run: Path) -> dict[str, Any]:
    """What is noted of a run's trackers; a new id where nothing is."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads((run / FOLDER / STANDING).read_text(encoding="utf-8"))
        return {"id": str(found["id"]), "settled": {name: int(step) for name, step in found["settled"].items()}}
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", run.resolve().name)[:40]
    return {"id": f"{plain}-{secrets.token_hex(4)}", "settled": {}}


def _record(name: str, line: Line) -> Record | None:
    if not isinstance(step := line.get("step"), int):
        return None
    match name:
        case _ if name == ALARMS:
            return Record("alarm", step, line) if "name" in line else None
        case _ if name == SAMPLES:
            return Record("sample", step, line) if {"prompt", "text"} <= line.keys() else None
        case _:
            return Record("evaluation" if any(key.startswith(HELD_OUT) for key in line) else "step", step, line)


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool) else str(value)
