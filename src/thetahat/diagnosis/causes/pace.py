"""Causes in the clock: waiting for data, and slowing down."""

from collections.abc import Iterator

import numpy as np

from thetahat.diagnosis.causes.case import Case
from thetahat.diagnosis.causes.cause import Cause
from thetahat.statistics.series import is_falling

MOST_WAIT = 0.1  # of the time of steps
MOST_MADE = 0.3  # likewise, where the processor that trains makes the batches in that time
SLOWER = 0.2  # of the speed at the beginning
FIRST = 10  # steps, which warm caches and kernels
LEAST_STEPS = 60


def starved(case: Case) -> Iterator[Cause]:
    """Steps wait for their batches."""
    waited, seconds = case.column("wait_seconds")[FIRST:], case.seconds[FIRST:]
    known = np.isfinite(waited) & np.isfinite(seconds)
    if known.sum() < FIRST:
        return
    share = waited[known].sum() / max(seconds[known].sum(), 1e-12)
    usual = float(np.median(waited[known] / np.maximum(seconds[known], 1e-12)))
    most = MOST_MADE if case.is_on_cpu else MOST_WAIT
    if share > most:
        stalls = usual < most / 2
        longest = int(np.argmax(np.where(known, waited, -1.0)))
        yield Cause(
            "starved",
            "note",
            "certain",
            int(case.step[FIRST + longest]) if stalls else 0,
            "steps waited for their batches",
            (
                f"{share:.0%} of the time of steps, in the median step {usual:.0%}",
                f"longest at step {case.step[FIRST + longest]:,.0f}: {waited[longest]:.2f} s",
            ),
            "a disk that stalls" if stalls else "faster files, fewer and larger micro-batches, or more cores",
        )


def slowed(case: Case) -> Iterator[Cause]:
    """Steps became slower and slower, or slow from some step on."""
    speed = case.column("tokens_per_second")[FIRST:]
    known = np.isfinite(speed)
    speed, step = speed[known], case.step[FIRST:][known]
    if len(speed) < LEAST_STEPS:
        return
    third = len(speed) // 3
    begin, end = float(np.median(speed[:third])), float(np.median(speed[-third:]))
    if end < (1 - SLOWER) * begin and is_falling(speed):
        turn = int(np.argmax(np.abs(np.cumsum(speed - speed.mean()))))
        yield Cause(
            "slowed-down",
            "note",
            "strong",
            int(step[turn]),
            "steps became slower",
            (f"{begin:,.0f} targets a second at first, {end:,.0f} at the end; it turns about step {step[turn]:,.0f}",),
            "another process, heat, memory that fills up, or a network that gives way",
        )
