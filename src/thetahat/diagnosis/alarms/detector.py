"""Compares each step with what is usual, and says which failures it shows."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, final

import numpy as np

from thetahat.diagnosis.alarms.after import PERSISTS, RULES as AFTER_RULES, Inner
from thetahat.diagnosis.alarms.alarm import Alarm
from thetahat.diagnosis.alarms.baseline import Baselines
from thetahat.diagnosis.alarms.memory import KEPT_MARKS, Memory
from thetahat.diagnosis.alarms.rules import FIRST, RETURNS, RULES, SIGMAS, Look, stuck_from
from thetahat.diagnosis.alarms.setting import Setting
from thetahat.diagnosis.signals.seen import Seen
from thetahat.ledger.summary import Summary

QUIET = 20  # steps without it, after which a failure is an alarm again
UNSURE = 0.02  # of a held-out value that has no interval
QUIET_AFTER = 3  # measurements likewise, of what is measured from time to time
SIGNALS = ("nats", "log_gradient_norm", "log_normalizer", "excess")


class Found(NamedTuple):
    """What a step shows."""

    holding: list[Alarm]  # every failure that shows in it
    new: list[Alarm]  # those that did not show in the steps before
    look: Look | None  # None: it is not finite


@final
class Detector:
    """The baselines of a run and its memory. What it finds is a function of what it has seen, and of nothing else."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.baselines = Baselines([*SIGNALS, *(f"log_norm/{name}" for name in setting.regions.names)])
        self.memory = Memory()

    def __call__(self, seen: Seen) -> Found:
        """What a step shows. It changes nothing: `take` does, once the step is made."""
        if not seen.is_finite:
            return self._found([_non_finite(seen)], None)
        names, deviations = self.baselines.names, self.baselines.deviations(self._values(seen))
        look = Look(
            seen,
            self.setting,
            self.memory,
            dict(zip(names, deviations.tolist(), strict=True)),
            dict(zip(names, self.baselines.level.tolist(), strict=True)),
        )
        return self._found([alarm for rule in RULES for alarm in rule(look)], look)

    def take(self, found: Found) -> None:
        """Remembers a step; what is out of the ordinary in it, or all of a spike, is not taken into the baselines."""
        for alarm in found.holding:
            self.memory.last[_kind(alarm)] = alarm.step
            if alarm.name == "gradient-spike":
                self.memory.spikes = [*self.memory.spikes, alarm.step][1 - RETURNS :]
        if (look := found.look) is not None:
            deviations = np.array([look.deviation[name] for name in self.baselines.names])
            self.baselines.take(self._values(look.seen), (deviations > SIGMAS) | look.is_spike)
            self._remember(look)

    def after(self, inner: Inner) -> list[Alarm]:
        """What shows inside the model after an update, and did not before; it is remembered."""
        holding = [alarm for rule in AFTER_RULES for alarm in rule(inner, self.setting, self.memory)]
        found = self._found(holding, None, QUIET_AFTER * max(inner.every, 1))
        for alarm in holding:
            self.memory.last[_kind(alarm)] = alarm.step
        return found.new

    def evaluated(self, step: int, held_out: Summary) -> list[Alarm]:
        """What an evaluation of what is held out shows, and did not show since the best one."""
        memory, trend = self.memory, float(self.baselines.level[0])
        if not memory.best_step or held_out.value < memory.best_value:
            memory.best_step, memory.best_value, memory.best_trend = step, held_out.value, trend
            memory.since_best = memory.over["overfitting"] = 0
            return []
        memory.since_best += 1
        found = [*self._overfitting(step, held_out, trend), *self._no_improvement(step, held_out)]
        new = [alarm for alarm in found if memory.last.get(alarm.name, -1) < memory.best_step]
        memory.last |= {alarm.name: step for alarm in found}
        return new

    def _overfitting(self, step: int, held_out: Summary, trend: float) -> list[Alarm]:
        """It got worse by more than its interval, in evaluations in a row, while training improves.

        The interval is about which documents are held out. A single evaluation also meets parameters that swing from
        step to step, as they do at a high learning rate.
        """
        at, best, then = self.memory.best_step, self.memory.best_value, self.memory.best_trend
        low = held_out.value_ci95[0] if held_out.value_ci95 else (1 - UNSURE) * held_out.value
        is_worse = low > best and trend < then
        self.memory.over["overfitting"] = self.memory.over.get("overfitting", 0) + 1 if is_worse else 0
        if self.memory.over["overfitting"] < PERSISTS:
            return []
        what = f"{held_out.value:.3f} {held_out.unit} held out, and {best:.3f} at step {at:,}, while training improves"
        evidence = {"held_out": held_out.value, "low": low, "best": best, "best_step": float(at), "training": trend}
        return [Alarm("overfitting", "warning", step, what, evidence, advice=(f"max_steps={at}",))]

    def _no_improvement(self, step: int, held_out: Summary) -> list[Alarm]:
        """Nothing better came in as many evaluations as somebody has patience for."""
        at, best, since = self.memory.best_step, self.memory.best_value, self.memory.since_best
        if not self.setting.patience or since < self.setting.patience:
            return []
        what = f"{held_out.value:.3f} {held_out.unit} held out, and {best:.3f} at step {at:,}, {since} evaluations ago"
        evidence = {"held_out": held_out.value, "best": best, "best_step": float(at), "evaluations": float(since)}
        return [Alarm("no-improvement", "warning", step, what, evidence, advice=(f"max_steps={at}",))]

    def _values(self, seen: Seen) -> Any:
        norms = [seen.gradient_norm, *(seen.norms[name] for name in self.setting.regions.names)]
        whole, *regions = [math.log(norm) if norm > 0 else math.nan for norm in norms]
        return np.array([seen.nats, whole, seen.log_normalizer, seen.excess, *regions], np.float64)

    def _remember(self, look: Look) -> None:
        memory, seen, clip = self.memory, look.seen, self.setting.optimization.clip
        memory.targets += seen.num_targets
        memory.risen = memory.risen + 1 if look.is_spike else 0
        if look.age < FIRST and clip is not None:
            memory.clipped.append(seen.gradient_norm / clip)
        elif look.age == FIRST:
            memory.clipped.clear()
        if look.age < 10 and (ratio := _depth_ratio(seen, self.setting)) is not None:
            memory.depth_ratios.append(ratio)
        if look.age == stuck_from(self.setting) // 2:
            memory.halfway = look.usual["nats"]
        if look.age % FIRST == 0:
            memory.marks = [*memory.marks, abs(look.usual["log_normalizer"])][-KEPT_MARKS:]

    def _found(self, holding: list[Alarm], look: Look | None, quiet: int = QUIET) -> Found:
        last = self.memory.last
        new = [alarm for alarm in holding if alarm.step - last.get(_kind(alarm), -math.inf) > quiet]
        return Found(holding, new, look)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as a checkpoint keeps it."""
        return {"baselines": self.baselines.to_dict(), "memory": self.memory.to_dict()}

    def load(self, kept: Mapping[str, Any]) -> None:
        """Goes on from what `to_dict` returned; of a model with other regions nothing is taken over."""
        baselines = Baselines.from_dict(kept["baselines"])
        if baselines.names == self.baselines.names:
            self.baselines, self.memory = baselines, Memory.from_dict(kept["memory"])


def _kind(alarm: Alarm) -> str:
    """Under which a failure is remembered: behind a note, the warning of the same name is new."""
    return f"{alarm.name} (note)" if alarm.severity == "note" else alarm.name


def _depth_ratio(seen: Seen, setting: Setting) -> float | None:
    """The gradient of the first block over that of the last one; None for fewer than four blocks."""
    blocks = setting.regions.blocks
    if len(blocks) < 4:
        return None
    first, last = (math.hypot(*(seen.norms[name] for name in block)) for block in (blocks[0], blocks[-1]))
    return first / last if last > 0 else None


def _non_finite(seen: Seen) -> Alarm:
    sick = [name for name, norm in seen.norms.items() if not math.isfinite(norm)]
    what = "the likelihood" if not math.isfinite(seen.nats) else "the gradient"
    evidence = {"sick_regions": float(len(sick))}
    return Alarm("non-finite", "critical", seen.step, f"{what} is not finite", evidence, sick[-1] if sick else "")
