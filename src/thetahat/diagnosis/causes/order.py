"""Causes in what was read, in which order, and at which rate: the log against itself and against the config."""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64

from thetahat.diagnosis.causes.before import cause_of
from thetahat.diagnosis.causes.case import Case, Rows
from thetahat.diagnosis.causes.cause import Cause
from thetahat.diagnosis.preflight.budget import schedule
from thetahat.optimization.schedule import learning_rate_factor
from thetahat.statistics.series import Correlation, detrended, lag_one, period

LEAST_STEPS = 60  # of a series that is judged
ALIKE = 0.2  # autocorrelation of neighbours, above which an order is no random one
CHANCE = 1e-3
IN_A_ROW = 3  # batches, at least, that were read again in the same order
NEVER = 1e-6  # chance that a random order has two stretches of so many batches that are the same
ROUNDING = 1e-9  # of a factor in [0, 1]


def logged_twice(case: Case) -> Iterator[Cause]:
    """A step that was made again had other numbers: its state, its data or its machine was another."""
    if case.twice:
        shown = ", ".join(f"{step:,}" for step in case.twice[:5])
        yield Cause(
            "not-resumed-exactly",
            "fault",
            "certain",
            case.twice[0],
            "steps that were made again came out otherwise",
            (f"metrics.jsonl has two lines with other numbers for {len(case.twice):,} steps: {shown}",),
            "was the folder written by two processes, or put together by hand? --fresh to train it again",
        )


def missing_steps(case: Case) -> Iterator[Cause]:
    """Steps between the first and the last are not in the log."""
    gaps = np.flatnonzero(np.diff(case.step) > 1)
    if len(gaps):
        count = int((np.diff(case.step) - 1).sum())
        yield Cause(
            "steps-missing",
            "note",
            "certain",
            int(case.step[gaps[0]]) + 1,
            "steps are missing in the log",
            (f"{count:,} of them in {len(gaps):,} gaps, the first behind step {case.step[gaps[0]]:,.0f}",),
            "a disk that lost what it had written, or a copy that was cut: what is judged here lacks them",
        )


def other_rate(case: Case) -> Iterator[Cause]:
    """The logged share of the peak learning rate is not what the schedule says."""
    if case.rules is None or case.num_steps is None:
        return
    own = case.step > case.first_step
    logged, steps = case.column("learning_rate_factor")[own], case.step[own]
    says = np.array([learning_rate_factor(case.rules.schedule, int(step) - 1, case.num_steps) for step in steps])
    wrong = np.flatnonzero(np.abs(logged - says) > ROUNDING)
    if len(wrong):
        first = wrong[0]
        yield Cause(
            "rate-off-schedule",
            "fault",
            "certain",
            int(steps[first]),
            "the learning rate was not what the schedule says",
            (f"{logged[first]:.6g} of the peak where it says {says[first]:.6g}; so in {len(wrong):,} steps",),
            "was config.toml changed by hand? metrics.jsonl tells what was trained with",
        )
    if case.findings is None:
        yield from map(cause_of, schedule(case.rules, case.num_steps))


def read_again(case: Case) -> Iterator[Cause]:
    """Batches came again in the same order: an epoch that is replayed, as after a resume that lost its place."""
    steps = sorted(case.batches)
    digests = [case.batches[step] for step in steps]
    length = stretch(len(digests), len(set(digests)))
    seen, again = dict[tuple[str, ...], int](), list[tuple[int, int]]()
    for place in range(len(digests) - length + 1) if length else ():
        window = tuple(digests[place : place + length])
        if window in seen:
            again.append((seen[window], steps[place]))
        seen.setdefault(window, steps[place])
    if again:
        first, then = again[0]
        yield Cause(
            "batches-again",
            "fault",
            "certain",
            then,
            "batches were read again in the same order",
            (
                f"from step {then:,} on those of step {first:,} and after, to the token;"
                f" {len(again) + length - 1:,} steps are so",
            ),
            "each epoch should have an order of its own: is the log that of two runs?",
        )


def stretch(num_steps: int, num_batches: int) -> int:
    r"""Batches in a row that no random order of epochs has twice; 0 where all data are one batch.

    An epoch of D batches has $\ln D!$ nats of order, $h = \ln(D!) / D$ a batch. Of n steps two stretches of k are the
    same with a chance below $n^2 e^{-hk}$, which is NEVER for $k = (2 \ln n - \ln \mathrm{NEVER}) / h$.
    """
    if num_batches < 2:
        return 0
    order = math.lgamma(num_batches + 1) / num_batches
    return max(IN_A_ROW, math.ceil((2 * math.log(num_steps) - math.log(NEVER)) / order))


def correlated(case: Case) -> Iterator[Cause]:
    """What a step reads tells what the next one reads, and the likelihood shows it."""
    if case.rows is None:
        return
    found = [(name, mix, lag_one(mix)) for name, mix in mixes(case.rows)]
    odd = [one for one in found if one[2].value > ALIKE and one[2].p_value < CHANCE / len(found)]
    if not odd:
        return
    name, mix, alike = max(odd, key=lambda one: one[2].value)
    nats = case.nats[np.isfinite(case.nats)]
    loss = lag_one(detrended(nats[len(nats) // 10 :])) if len(nats) >= LEAST_STEPS else Correlation(0.0, 1.0)
    evidence = [f"{name}: neighbours correlate by {alike.value:.2f} (p = {alike.p_value:.1g}) over {len(mix):,} steps"]
    if every := period(mix):
        evidence.append(f"it repeats every {every:,} steps")
    shows = loss.value > ALIKE and loss.p_value < CHANCE
    if shows:
        evidence.append(f"the likelihood without its trend: by {loss.value:.2f} (p = {loss.p_value:.1g})")
    yield Cause(
        "order-correlated",
        "trouble" if shows else "note",
        "strong" if shows else "weak",
        0,
        "the order of the data is not random: what a step reads tells what the next one reads",
        tuple(evidence),
        "shuffle the data before it is packed, or name its sources in data.sources, whose rows are mixed evenly",
    )


def mixes(rows: Rows) -> Iterator[tuple[str, Float64[np.ndarray, " s"]]]:
    """By name, what steps read of each source, as a share, and how long their rows are; none of few steps."""
    steps, at = np.unique(rows.step, return_inverse=True)
    if len(steps) < LEAST_STEPS:
        return
    whole = np.bincount(at, rows.targets)
    for number in np.unique(rows.source) if len(rows.sources) > 1 else ():
        share = np.bincount(at, rows.targets * (rows.source == number), len(steps)) / np.maximum(whole, 1)
        if not math.isclose(share.std(), 0.0, abs_tol=1e-12):
            yield f"the share of {rows.sources[number] or '(no source)'}", share
    yield "the length of what is read", whole / np.bincount(at)


def elsewhere(case: Case) -> Iterator[Cause]:
    """The run went on in another environment than that in which it began."""
    for restart in case.restarts:
        if restart.changed:
            changed = ", ".join(f"{name} is now {value}" for name, value in restart.changed.items())
            yield Cause(
                "environment-changed",
                "note",
                "certain",
                restart.step,
                "the run went on in another environment",
                (f"from step {restart.step:,} on: {changed}",),
                "its steps are then not those of an uninterrupted run to the bit",
            )
            return
