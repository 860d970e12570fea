"""The signals and alarms of a run: measured and decided between clipping and the update, the same on all ranks."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from thetahat.core.batch import Batch
from thetahat.core.errors import StoppedError
from thetahat.core.plain import as_json, counted
from thetahat.diagnosis.alarms.after import Inner, told_of
from thetahat.diagnosis.alarms.again import Again
from thetahat.diagnosis.alarms.alarm import AFTER, Action, Alarm, Suspect
from thetahat.diagnosis.alarms.detector import Detector
from thetahat.diagnosis.signals.regions import joined_norms
from thetahat.diagnosis.signals.seen import Seen, worst_of
from thetahat.diagnosis.signals.sequences import NUM_VALUES, summary, sums_of
from thetahat.distribution.world import World
from thetahat.ledger.summary import Summary
from thetahat.objective.log_prob import Told
from thetahat.run.diagnosis.inside import Inside
from thetahat.run.diagnosis.webhook import Webhook
from thetahat.run.log.alarms import ALARMS
from thetahat.run.log.metrics import MetricsLog
from thetahat.run.log.rewinds import SKIP_STEPS
from thetahat.run.state import State
from thetahat.run.step import Measured, Verdict


class GoingBack(Exception):
    """An alarm takes the run back, before the update of its step."""

    def __init__(self, alarms: Sequence[Alarm]) -> None:
        super().__init__("; ".join(map(str, alarms)))
        self.alarms = tuple(alarms)


@dataclass(frozen=True, slots=True)
class Undone:
    """What alarms have undone of a run by now."""

    skip_steps: frozenset[int] = frozenset()  # steps that make no update
    num_rewinds: int = 0  # how often it went back


Suspects = Callable[[Alarm, Seen], tuple[Suspect, ...]]  # the sequences that stand out


@final
class AlarmLog:
    """alarms.jsonl of a run: made with the first alarm, and cut on resume to what belongs to the checkpoint.

    What is written is posted, too, where there is a webhook.
    """

    def __init__(self, folder: Path, num_bytes: int, webhook: Webhook | None = None) -> None:
        self._path, self._webhook = folder / ALARMS, webhook
        if self._path.exists():
            self._open(num_bytes)
        else:
            self._log = None

    def append(self, alarm: Alarm) -> None:
        """Adds an alarm."""
        (self._log or self._open(0)).append(told := alarm.to_dict())
        if self._webhook:
            self._webhook.post({"run": self._path.parent.resolve().name, **told})

    def close(self) -> None:
        """Gives what is still to be posted some seconds."""
        if self._webhook:
            self._webhook.close()

    def settle(self) -> int:
        """Flushes the file to disk, and returns its length in bytes."""
        return self._log.settle() if self._log else 0

    def _open(self, num_bytes: int) -> MetricsLog:
        self._log = MetricsLog(self._path, num_bytes)
        return self._log


@final
class Watch:
    """Compares each step with what is usual. It changes nothing, unless a policy leaves updates out."""

    def __init__(
        self, state: State, detector: Detector, world: World, suspects: Suspects, log: AlarmLog | None
    ) -> None:
        self._config, self._detector, self._world, self._suspects = state.config, detector, world, suspects
        self._log = log  # on the first rank
        self._regions = detector.setting.regions
        self._inside = Inside(state, self._regions, world)
        self._inner: Inner | None = None
        self._index: dict[tuple[int, ...], Tensor] = {}
        self._sums: list[Tensor] = []
        self._num_pieces: list[int] = []
        self.again = Again({}, is_exact=False)
        self.undone = Undone()
        self.seen: Seen | None = None  # of the last step
        self.alarms: list[Alarm] = []  # of the last step
        self.skipped: list[str] = []  # the alarms that left its update out

    def begin(self, batches: Sequence[Batch]) -> None:
        """Before a step; the batches are still on the host."""
        self._sums, self.seen, self.alarms, self.skipped, self._inner = [], None, [], [], None
        self._num_pieces = [int((one.whole or one).inputs.visibility.piece.max()) + 1 for one in batches]

    def note(self, batch: Batch, told: Told) -> None:
        """What the kernel told of the next micro-batch; the host does not wait for it."""
        self._sums.append(sums_of(batch, told, self._num_pieces[len(self._sums)]))

    def judge(self, measured: Measured) -> Verdict:
        """Whether the update is made. One copy from the device has all that is asked."""
        self.seen = seen = self._see(measured)
        found = self._detector(seen)
        actions = {alarm.name: self._action(alarm) for alarm in found.holding}
        self.alarms = [self._told(alarm, seen) for alarm in found.new]
        if not seen.is_finite and actions["non-finite"] == "stop":
            return "fail"
        is_left_out = seen.step in self.undone.skip_steps
        self.skipped = [SKIP_STEPS] if is_left_out else [name for name, did in actions.items() if did == "skip"]
        self._stop([alarm for alarm in self.alarms if alarm.action == "stop"])
        self._go_back([self._told(alarm, seen) for alarm in found.holding if actions[alarm.name] == "rewind"])
        self._detector.take(found)
        if not self.skipped:
            self._inside.begin(seen.step)
        return "skip" if self.skipped else "update"

    def end(self, batches: Sequence[Batch]) -> None:
        """After the update, before anything is written."""
        self._inner = inner = self._inside.end(batches)
        if inner is not None and self.seen is not None:
            self.alarms += [self._told(alarm, self.seen) for alarm in self._detector.after(inner)]

    def evaluated(self, step: int, held_out: Summary) -> None:
        """After an evaluation of what is held out: its alarms are written at once."""
        self._add(self._detector.evaluated(step, held_out))

    def logged(self, line: Mapping[str, Any]) -> None:
        """What is about to be logged of a step, beside what was logged of it before: its alarm is written at once."""
        self._add(self.again(line))

    def _add(self, found: Iterable[Alarm]) -> None:
        for alarm in found:
            self.alarms.append(told := replace(alarm, action=self._config.diagnosis.action(alarm.name)))
            if self._log is not None:
                self._log.append(told)

    def close(self) -> None:
        """When the run ends, however it does."""
        if self._log is not None:
            self._log.close()

    def stop(self) -> None:
        """Raises StoppedError if an alarm that was found after the update stops the run."""
        self._stop([alarm for alarm in self.alarms if alarm.action == "stop" and alarm.name in AFTER])

    def _stop(self, alarms: Sequence[Alarm]) -> None:
        """Raises StoppedError if one of these alarms stops the run. All ranks have seen the same, and agree."""
        if self._world.any(bool(alarms)) if "stop" in self._config.diagnosis.policies.values() else alarms:
            raise StoppedError(
                "; ".join(map(str, alarms)), cure=f"diagnosis.policies.{alarms[0].name}=record to go on past it"
            )

    def _go_back(self, alarms: Sequence[Alarm]) -> None:
        """Raises GoingBack if one of these alarms takes the run back, StoppedError if it went back often enough."""
        config = self._config.diagnosis
        if not config.rewinds or not self._world.any(bool(alarms)):
            return
        if self.undone.num_rewinds >= config.max_rewinds:
            self.alarms = [replace(alarm, action="stop") for alarm in alarms]
            raise StoppedError(
                f"{'; '.join(map(str, self.alarms))}; it went back {counted(self.undone.num_rewinds, 'time')} already",
                cure=f"diagnosis.max_rewinds={2 * config.max_rewinds} to go back again; where it is not the data: half"
                " the learning rates, by thetahat train --branch RUN",
            )
        self.alarms = list(alarms)
        raise GoingBack(alarms)

    def _action(self, alarm: Alarm) -> Action:
        """What is done: in a step that makes no update, nothing else."""
        return "skip" if alarm.step in self.undone.skip_steps else self._config.diagnosis.action(alarm.name)

    def _see(self, measured: Measured) -> Seen:
        device, world = measured.total.log_prob.device, self._world
        sums = self._sums
        if sums and (world.layout.context.size > 1 or world.layout.stages):  # of what several ranks read together
            sums = world.sum_of_stages(world.sum_of_row(torch.cat(sums, 1))).split(self._num_pieces, 1)
        mine = summary(sums, device)
        if world.size > 1:
            slots = torch.zeros(world.data.size, NUM_VALUES, dtype=torch.float64, device=mine.device)
            if world.layout.context.rank == 0:
                slots[world.data.rank] = mine
            mine = world.sum(slots)
        names = self._regions.names
        norms = joined_norms(measured.gradient.norms, self._region_index(measured.holders, device), len(names))
        parts = (measured.gradient.norm[None], measured.total.log_prob[None], norms, mine.flatten())
        values: list[float] = torch.cat(parts).tolist()
        norm, log_prob, of_regions, rest = values[0], values[1], values[2 : 2 + len(names)], values[2 + len(names) :]
        summaries = [rest[place : place + NUM_VALUES] for place in range(0, len(rest), NUM_VALUES)]
        targets, nats, log_normalizer = (math.fsum(one[place] for one in summaries) for place in range(3))
        return Seen(
            measured.step,
            int(targets),
            nats / max(targets, 1),
            log_normalizer / max(targets, 1),
            norm,
            measured.learning_rate_factor,
            dict(zip(names, of_regions, strict=True)),
            worst_of(summaries),
            math.isfinite(norm + log_prob),
        )

    def _region_index(self, holders: Sequence[int], device: torch.device) -> Tensor:
        """The region of each tensor that has a gradient."""
        key = tuple(holders)
        if key not in self._index:
            self._index = {key: self._regions.index(device)[list(key)]}
        return self._index[key]

    def _told(self, alarm: Alarm, seen: Seen) -> Alarm:
        return replace(alarm, action=self._action(alarm), suspects=self._suspects(alarm, seen))

    def write(self, why: str = "", where: str = "") -> None:
        """Adds the alarms of the last step to alarms.jsonl, on the first rank; why and where it failed, if it did."""
        if self._log is not None:
            for alarm in self.alarms:
                self._log.append(replace(alarm, what=why or alarm.what, where=where or alarm.where))

    def signals(self) -> dict[str, Any]:
        """What the line of the last step in metrics.jsonl has beside the rest."""
        if self.seen is None:
            return {}
        found: dict[str, Any] = {"log_normalizer": self.seen.log_normalizer}
        if self.seen.worst:
            found["worst_excess"] = self.seen.excess
        if self.alarms:
            found["alarms"] = [alarm.name for alarm in self.alarms]
        if self.skipped:
            found["skipped"] = self.skipped
        every = self._config.diagnosis.every
        if every and (self.seen.step % every == 0 or self.alarms):
            found["signals"] = {"gradient_norm": self.seen.norms} | (told_of(self._inner) if self._inner else {})
        return as_json(found)

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"detector": self._detector.to_dict(), "bytes": self._log.settle() if self._log else 0}
