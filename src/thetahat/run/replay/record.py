"""What the folder of a run says of the steps that it made: their lines, its checkpoints, where and by whom."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from thetahat.core import store
from thetahat.core.errors import ConfigError
from thetahat.distribution.mesh import MeshConfig
from thetahat.run.config import RunConfig
from thetahat.run.folder.absent import no_model
from thetahat.run.folder.checkpoint import find_fault
from thetahat.run.folder.config import read_config
from thetahat.run.folder.files import all_checkpoints, folder_of, is_run, step_of
from thetahat.run.folder.find import find_parent
from thetahat.run.folder.folder import environment
from thetahat.run.folder.starts import ENVIRONMENT, Start, flat, read_starts
from thetahat.run.log.alarms import read_alarms
from thetahat.run.log.history import read_metrics
from thetahat.run.log.rewinds import skipped_steps


@dataclass(frozen=True, slots=True)
class Record:
    """A run as its folder tells of it."""

    folder: Path
    config: RunConfig
    steps: Mapping[int, Mapping[str, Any]]  # of metrics.jsonl
    failed: frozenset[int]  # steps that were not finite, by alarms.jsonl
    environment: Mapping[str, Any]  # in which the run began; empty where that is not known
    starts: Sequence[Start]  # what was different when it went on
    notes: tuple[str, ...]  # what could not be read

    @property
    def last(self) -> int:
        """The newest step that was made."""
        return max([self.config.first_step, *self.steps, *map(step_of, all_checkpoints(self.folder))])

    @property
    def skipped(self) -> frozenset[int]:
        """The steps whose update was left out."""
        by_policy = frozenset(step for step, line in self.steps.items() if "skipped" in line)
        return by_policy | skipped_steps(self.folder, self.config)

    def chosen(self, step: int | None) -> int:
        """The step that is meant; without one that which ended the run with a value that is not finite, or the last.

        Raises ConfigError for a step that the run has not come to, or that is its parent's.
        """
        first, last, config = self.config.first_step, self.last, self.config
        until = min(last + 1, config.max_steps)  # the next may have been begun, and failed
        step = (until if until in self.failed else last) if step is None else step
        if first < step <= until:
            return step
        cure = ""
        if config.parent and 0 < step <= first:
            cure = f"thetahat replay {quote(config.parent.run)} --step {step}, its parent, which made that step"
        allowed = f"{first + 1} to {until}" if first < until else "nothing: no step was begun"
        raise ConfigError(f"{self.folder} has not made a step {step}", allowed=allowed, cure=cure)

    def machine(self, step: int) -> dict[str, Any]:
        """The environment in which a step was made: that of the last start before it, its names joined by dots."""
        starts = [start for start in self.starts if start.step < step]
        return flat(self.environment) | (starts[-1].changed if starts else {})

    def mesh(self, step: int) -> MeshConfig:
        """How the ranks that made a step shared the work; of a run that has not noted it, as its config says."""
        noted, usual = self.machine(step), self.config.mesh
        return MeshConfig(**{name: noted.get(f"mesh.{name}", getattr(usual, name)) for name in usual.__struct_fields__})

    def ranks(self, step: int) -> int:
        """How many ranks made a step, each with rows of its own."""
        mesh = self.mesh(step)
        return int(self.machine(step).get("world_size", 1)) // (mesh.tensor * mesh.context * mesh.pipeline)

    def elsewhere(self, step: int, config: RunConfig) -> list[str]:
        """What bits may depend on and is not what it was when a step was made; `config` is what computes here."""
        then, now, wanted = self.machine(step), flat(environment()) if self.environment else {}, self.config
        names = [name for name in then if name.startswith("packages.") or name in _OF_BITS]
        names += ["gpus"] if config.device == "cuda" else []
        pairs = [(name.removeprefix("packages."), then.get(name), now.get(name)) for name in names]
        pairs += [("device", wanted.device, config.device), ("threads", wanted.threads, config.threads)]
        return [f"{name}: {before} then, {here} here" for name, before, here in pairs if before != here]


_OF_BITS = ("processor", "cpu_capability", "python")


def read_record(run: Path) -> Record:
    """The record of a run folder; raises ModelError where there is none."""
    if not is_run(run):
        raise no_model(run)
    lines, (alarms, notes) = read_metrics(run), read_alarms(run)
    failed = frozenset(alarm.step for alarm in alarms if alarm.name == "non-finite")
    told: Mapping[str, Any] = {}
    try:
        told = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        notes.append(f"{ENVIRONMENT} cannot be read: where the run was made is not known")
    return Record(run, read_config(run), lines.steps, failed, told, read_starts(run), (*lines.notes, *notes))


@dataclass(frozen=True, slots=True)
class Beginning:
    """From where a step is made again."""

    checkpoint: Path | None  # None, and no parent: from step 0, which is a function of the config
    parent: Path | None  # the checkpoint of the parent, where the run's own are of later steps
    notes: tuple[str, ...]  # checkpoints that are not whole


def beginning_of(record: Record, step: int) -> Beginning:
    """The newest whole checkpoint before a step, or else where the run began."""
    notes = list[str]()
    for folder in reversed(all_checkpoints(record.folder)):
        if step_of(folder) < step:
            if (fault := find_fault(folder, record.config)) is None:
                return Beginning(folder, None, tuple(notes))
            notes.append(f"{folder.name} is {fault.kind}, and left out: {fault.reason}")
    parent = record.config.parent
    folder = find_parent(parent, record.folder) if parent else None
    if folder:
        store.verify(folder)
    return Beginning(None, folder, tuple(notes))


def checkpoint_after(record: Record, step: int) -> Path | None:
    """The oldest whole checkpoint of this step or a later one."""
    later = (folder for folder in all_checkpoints(record.folder) if step_of(folder) >= step)
    return next((folder for folder in later if find_fault(folder, record.config) is None), None)


def checkpoint_of(record: Record, step: int) -> Path | None:
    """The checkpoint of a step, if there is one and it is whole."""
    folder = folder_of(record.folder, step)
    return folder if folder.is_dir() and find_fault(folder, record.config) is None else None
