"""rewinds.jsonl: where alarms took a run back, and which of its steps make no update since."""

import itertools
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from thetahat.core import store
from thetahat.core.errors import ModelError
from thetahat.core.plain import as_json
from thetahat.diagnosis.alarms.alarm import Alarm
from thetahat.run.config import RunConfig
from thetahat.run.log.lines import Line

REWINDS = "rewinds.jsonl"
SKIP_STEPS = "skip_steps"  # in a line of metrics.jsonl, why a step made no update; in state.json, which steps made none


@dataclass(frozen=True, slots=True)
class Rewind:
    """A decision to go back."""

    step: int  # of the alarms
    to: int  # the checkpoint from which its steps are made again
    skip_steps: tuple[int, ...]  # those that make no update from then on
    alarms: tuple[Alarm, ...]

    def __str__(self) -> str:
        """In one line."""
        first, last = self.skip_steps[0], self.skip_steps[-1]
        gaps = "" if len(self.skip_steps) == last - first + 1 else f" ({len(self.skip_steps):,} of them)"
        steps = f"steps {first:,} to {last:,}{gaps}" if last > first else f"step {last:,}"
        return f"going back to step {self.to:,}, and leaving out the updates of {steps}"


def read_rewinds(run: Path) -> list[Rewind]:
    """The decisions of a run, in their order. Its parameters depend on them: a damaged line is a ModelError."""
    path, found = run / REWINDS, list[Rewind]()
    with store.reading(path):
        lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            read: Any = msgspec.json.decode(line)
            found.append(msgspec.convert(read, Rewind, strict=False))  # what is not finite is text there
        except (msgspec.MsgspecError, ValueError) as error:
            cure = f"put {REWINDS} back from a copy: it says which steps make no update"
            raise ModelError(f"{path}:{number} is damaged", cure=cure) from error
    return found


def note_rewind(run: Path, rewind: Rewind) -> None:
    """Adds a decision. It is on disk, whole, when this returns; killed before, it was never made."""
    lines = [*read_rewinds(run), rewind]
    store.write_text(run / REWINDS, "".join(f"{json.dumps(as_json(one), allow_nan=False)}\n" for one in lines))


def skipped_steps(run: Path, config: RunConfig) -> frozenset[int]:
    """The steps that make no update: those that the config names, and those of all decisions to go back."""
    return frozenset(config.skip_steps).union(*(one.skip_steps for one in read_rewinds(run)))


def last_made(step: int, count: int, first: int, skipped: Collection[int]) -> tuple[int, ...]:
    """The last `count` steps up to `step` that make an update, ascending; fewer where the run began behind `first`."""
    made = (one for one in range(step, first, -1) if one not in skipped)
    return tuple(sorted(itertools.islice(made, count)))


def furthest_back(run: Path, config: RunConfig, step: int) -> int | None:
    """The last step whose checkpoint would do if, behind `step`, a run went back as often as it still may.

    An alarm of a later step needs no older one. None where it goes back no more.
    """
    left = config.diagnosis.max_rewinds - len(read_rewinds(run)) if config.diagnosis.rewinds else 0
    if left <= 0:
        return None
    count, skipped = left * config.diagnosis.rewind_batches, skipped_steps(run, config)
    return min(last_made(step + 1, count, config.first_step, skipped), default=step + 1) - 1


def comparable(run: Path, lines: dict[int, Line]) -> dict[int, Line]:
    """Of steps that were logged behind a checkpoint, those that are made again: not what the last decision undid."""
    first = next((one.skip_steps[0] for one in reversed(read_rewinds(run))), None)
    if first is None or first not in lines or "skipped" in lines[first]:
        return lines
    return {step: line for step, line in lines.items() if step < first}
