"""Causes that the curve of the likelihood shows, whether an alarm was raised or not."""

import math
from collections.abc import Iterator

import numpy as np

from thetahat.diagnosis.alarms.advice import slower
from thetahat.diagnosis.causes.case import Case
from thetahat.diagnosis.causes.cause import Cause
from thetahat.optimization.config import WSD
from thetahat.statistics.series import blocks, fitted_slope

LEAST_STEPS = 60  # of a curve that is judged
LEARNED = 0.05  # nats a target, less than which is nothing
LOST = 0.1  # of the best level of before
SIGMAS = 6.0
UNSURE = 0.02  # of a held-out value that has no interval
GAIN = 0.02  # of the nats a target, which twice the targets would save
LOW = 0.1  # of the peak of the learning rate
LONG = 0.3  # of the run below it
SAME = 0.5  # of the earlier slope: the curve falls on
VALUES = {"bits_per_byte": "bits per byte", "nats_per_label": "nats a label", "nats_per_token": "nats a token"}


def stuck(case: Case) -> Iterator[Cause]:
    """From beginning to end next to nothing was learned."""
    levels = blocks(case.nats)
    if not case.is_drawn or case.alarmed("loss-stuck") or not np.isfinite(levels).all():
        return
    begin, best = float(case.nats[:5].mean()), float(levels.min())
    if begin - best < LEARNED:
        yield Cause(
            "loss-stuck",
            "fault",
            "strong",
            0,
            "next to nothing was learned",
            (f"{begin:.3f} nats a target at first, and {best:.3f} at best, in {len(case.nats):,} steps",),
            "are parameters frozen, or is the rate far too low? thetahat verify, and ten times the learning rate, tell",
        )


def lost(case: Case) -> Iterator[Cause]:
    """The run ends far above its best level, and no alarm has said so."""
    levels = blocks(case.nats)
    if case.alarmed("diverging", "non-finite", "learning-rate-too-high") or len(levels) < 3:
        return
    best, last = int(np.nanargmin(levels)), float(levels[-1])
    level, part = float(levels[best]), len(case.nats) // len(levels)
    spread = float(np.nanstd(case.nats[best * part : (best + 1) * part])) / math.sqrt(max(part, 1))
    if last > level * (1 + LOST) and last > level + LOST and last > level + SIGMAS * spread:
        yield Cause(
            "likelihood-lost",
            "trouble",
            "strong",
            int(case.step[min((best + 1) * part, len(case.step) - 1)]),
            "the likelihood fell after its best and did not come back",
            (f"{level:.3f} nats a target at best, about step {case.step[best * part]:,.0f}, then {last:.3f}",),
            advice=slower(case.rules) if case.rules else (),
        )


def overfitted(case: Case) -> Iterator[Cause]:
    """What is held out became worse, beyond its interval, while the training became better."""
    name = next((one for one in VALUES if np.isfinite(case.evaluations.get(one, np.zeros(0))).any()), "")
    if not name or case.alarmed("overfitting"):
        return
    known = np.isfinite(case.evaluations[name])
    values, at = case.evaluations[name][known], case.evaluations["step"][known]
    low = case.evaluations.get(f"{name}_ci95_low", np.full(len(known), np.nan))[known]
    best = int(np.argmin(values))
    bound = float(low[-1]) if np.isfinite(low[-1]) else (1 - UNSURE) * float(values[-1])
    then, now = _level(case, float(at[best])), _level(case, float(at[-1]))
    if bound > values[best] and now < then:
        yield Cause(
            "overfitting",
            "trouble",
            "strong",
            int(at[best]),
            "training went on improving and what is held out became worse",
            (
                f"held out {values[best]:.4f} {VALUES[name]} at step {at[best]:,.0f}, and {values[-1]:.4f} at the end",
                f"in training {then:.3f} nats a target then, and {now:.3f} at the end",
            ),
            "thetahat select RUN takes the best",
            (f"max_steps={int(at[best])}",),
        )


def _level(case: Case, step: float) -> float:
    """Nats a target in the tenth of the run that ends with a step."""
    width = max(len(case.step) // 10, 1)
    end = int(np.searchsorted(case.step, step, side="right"))
    return float(case.nats[max(end - width, 0) : end].mean()) if end else math.nan


def too_short(case: Case) -> Iterator[Cause]:
    r"""The curve was still falling: by $-b \ln 2$ nats a target for twice as many targets.

    b is its slope over the logarithm of the targets in the second half of the steps, sure to twice its error.
    """
    if case.num_steps is None or len(case.step) < LEAST_STEPS or case.step[-1] < case.num_steps:
        return
    if any(True for _ in overfitted(case)) or case.alarmed("overfitting", "diverging"):
        return
    half = len(case.step) // 2
    slope = fitted_slope(np.log(case.column("tokens")[half:]), case.nats[half:])
    level, gain = float(blocks(case.nats)[-1]), -slope.value * math.log(2)
    if gain - 2 * slope.error * math.log(2) > GAIN * level:
        yield Cause(
            "too-short",
            "note",
            "strong" if gain > 2 * GAIN * level else "weak",
            int(case.step[-1]),
            "the likelihood was still rising when the run ended",
            (f"twice as many targets gain {gain:.3f} nats a target of {level:.3f}, as far as its curve tells",),
            "a longer run; a schedule goes over max_steps, so a branch of an earlier step has a higher rate again",
            (f"max_steps={2 * case.num_steps}",),
        )


def decayed_early(case: Case) -> Iterator[Cause]:
    """The rate was low for long, and the curve fell as steeply as before: more could have been learned at a higher one.

    Below LOW of its peak for LONG of the steps, the slope over the logarithm of the targets is at least half of what
    it was in as many steps at half of the peak or more.
    """
    factor = case.column("learning_rate_factor")
    peak = float(np.nanmax(factor)) if np.isfinite(factor).any() else 0.0
    reached = int(np.argmax(factor >= peak)) if peak else 0
    is_low = (np.arange(len(factor)) > reached) & (factor < LOW * peak)
    high = np.flatnonzero((np.arange(len(factor)) >= reached) & (factor >= peak / 2))
    if is_low.sum() < max(LONG * len(factor), LEAST_STEPS) or len(high) < LEAST_STEPS // 2:
        return
    targets = np.log(case.column("tokens"))
    before, after = (
        fitted_slope(targets[at], case.nats[at]) for at in (high[len(high) // 2 :], np.flatnonzero(is_low))
    )
    if after.value + 2 * after.error < 0 and after.value < SAME * before.value < 0:
        first = int(case.step[np.argmax(is_low)])
        yield Cause(
            "rate-decayed-early",
            "note",
            "strong",
            first,
            "the learning rate was low for long while the likelihood still rose as fast as before",
            (
                f"below {LOW:.0%} of its peak for {is_low.sum():,} of {len(factor):,} steps",
                f"{-before.value:.3f} nats gained for each e-fold of targets before, and {-after.value:.3f} then",
            ),
            "a schedule that goes over all of the run, or one that decays at its end",
            _later(case),
        )


def _later(case: Case) -> tuple[str, ...]:
    if case.rules is None:
        return ()
    end = "optimization.schedule.decay=0.2" if isinstance(case.rules.schedule, WSD) else ""
    return (end,) if end else ("optimization.schedule.kind=wsd", "optimization.schedule.decay=0.2")
