"""The learning rate over a run: a function of the step alone, so it needs no state."""

import math

from thetahat.optimization.config import WSD, Constant, Cosine


def learning_rate_factor(schedule: Constant | Cosine | WSD, step: int, num_steps: int) -> float:
    r"""The fraction of the peak learning rate for the update from `step` to `step` + 1, in [0, 1].

    $\min((s + 1) / \text{warmup},\ f(s))$, s from 0, so the first update of a warm-up is not 0. The decay $f$ has its
    `final` value at s = `num_steps`, one step after the last update, so no update has rate 0; it stays there.
    """
    warmup = min(1.0, (step + 1) / max(1, schedule.warmup_steps))
    return min(warmup, _after_warmup(schedule, min(step, num_steps), num_steps))


def _after_warmup(schedule: Constant | Cosine | WSD, step: int, num_steps: int) -> float:
    match schedule:
        case Constant():
            return 1.0
        case Cosine(warmup_steps=warmup_steps, final=final):
            progress = max(0, step - warmup_steps) / max(1, num_steps - warmup_steps)
            return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
        case WSD(decay=decay, final=final):
            remaining = min(1.0, (num_steps - step) / (decay * max(1, num_steps)))
            return final + (1 - final) * remaining
