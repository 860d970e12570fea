"""The time line of a run, in sentences."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from thetahat.core.plain import counted, duration
from thetahat.diagnosis.alarms.alarm import DONE
from thetahat.verbs.story import Story

MOST = 12  # alarms that are told one by one
UNITS = {"bits_per_byte": "bits per byte", "nats_per_label": "nats per label"}


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened."""

    step: int
    text: str


def moments(story: Story) -> tuple[Moment, ...]:
    """What happened in a run, by step."""
    found = [*_trained(story), *_starts(story), *_evaluated(story), *_alarmed(story), *_ended(story)]
    return tuple(sorted(found, key=lambda one: one.step))


def _trained(story: Story) -> Iterator[Moment]:
    steps = story.history.steps
    if not story.history.last_step:
        yield Moment(0, "no step was logged")
        return
    for join in reversed(story.history.joins):
        yield Moment(join.step, f"branched from {join.parent}")
    nats, first, last = -steps["log_likelihood_per_token"], int(steps["step"][0]), story.history.last_step
    of = f" of {story.num_steps:,}" if story.num_steps and story.num_steps != last else ""
    size = max(len(nats) // 20, 1)
    yield Moment(
        first,
        f"trained from step {first:,} to {last:,}{of}: {counted(int(steps['tokens'][-1]), 'target')} in"
        f" {duration(float(steps['seconds'][-1]))}, from {nats[:size].mean():.3f} to {nats[-size:].mean():.3f} nats a"
        " target",
    )


def _starts(story: Story) -> Iterator[Moment]:
    for start in story.starts[1:]:
        changed = ", ".join(f"{name} {value}" for name, value in start.changed.items())
        elsewhere = f", in another environment: {changed}" if changed else ""
        yield Moment(start.step, f"went on from step {start.step:,} at {start.at}{elsewhere}")


def _evaluated(story: Story) -> Iterator[Moment]:
    table = story.history.evaluations
    name = next((one for one in UNITS if np.isfinite(table.get(one, np.zeros(0))).any()), None)
    if name is None:
        return
    known = np.isfinite(table[name])
    values, at = table[name][known], table["step"][known]
    best = int(np.argmin(values))
    yield Moment(
        int(at[best]),
        f"best of {counted(len(values), 'evaluation')}: {values[best]:.4f} {UNITS[name]} held out"
        + (f"; the last, at step {at[-1]:,.0f}, {values[-1]:.4f}" if best < len(values) - 1 else ""),
    )


def _alarmed(story: Story) -> Iterator[Moment]:
    for alarm in story.alarms[:MOST]:
        where = f" in {alarm.where}" if alarm.where else ""
        yield Moment(alarm.step, f"{alarm.name}{where}: {alarm.what}{DONE[alarm.action][1]}")
    if more := story.alarms[MOST:]:
        yield Moment(more[0].step, f"{counted(len(more), 'alarm')} more, until step {more[-1].step:,}")


def _ended(story: Story) -> Iterator[Moment]:
    last = story.history.last_step
    left = (story.num_steps or last) - last
    if left > 0:
        is_stopped = story.alarms and story.alarms[-1].action == "stop" and story.alarms[-1].step >= last
        why = f"{story.alarms[-1].name} stopped it" if is_stopped else "it has not ended"
        yield Moment(last, f"{why}: {counted(left, 'step')} are left")
