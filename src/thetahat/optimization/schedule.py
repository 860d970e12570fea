"""The learning rate over a run: a pure function of the step, so nothing about it is saved."""

import math

from thetahat.optimization.config import WSD, Constant, Cosine


def learning_rate_factor(schedule: Constant | Cosine | WSD, step: int, num_steps: int) -> float:
    r"""The part of the peak learning rate with which the update from `step` to `step` + 1 is made, in [0, 1].

    $\min((s + 1) / \text{warmup},\ f(s))$, s from 0, so the first update of a warm-up moves. The decays $f$ take their
    `final` value at s = `num_steps`, one past the last update, so no update is made at rate 0; beyond, they stay there.
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
