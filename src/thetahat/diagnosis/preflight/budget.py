"""Whether the schedule fits the run, and the run its data."""

from collections.abc import Iterator

from thetahat.diagnosis.finding import Finding
from thetahat.optimization.config import WSD, OptimizationConfig
from thetahat.optimization.schedule import learning_rate_factor

LEAST_STEPS = 20  # a shorter run tries whether all works, and no schedule fits into it
LEAST_SHARE = 0.8  # of the peak: with less the rate that was asked for is not tried
MOST_EPOCHS = 40  # by then repeated data is worth nothing more: Muennighoff et al., 2023, arXiv 2305.16264


def schedule(optimization: OptimizationConfig, num_steps: int) -> Iterator[Finding]:
    r"""The warm-up must end before the run, or the decay, does; else rates stay below `LEAST_SHARE` of their peak.

    The share is $\max_s f(s)$ over all steps, f as in `learning_rate_factor`. Runs below `LEAST_STEPS` are trials.
    """
    chosen = optimization.schedule
    if num_steps < LEAST_STEPS or chosen.warmup_steps <= 1:
        return
    share = max(learning_rate_factor(chosen, step, num_steps) for step in range(min(num_steps, chosen.warmup_steps)))
    if share < LEAST_SHARE:
        stable = num_steps * (1 - chosen.decay) if isinstance(chosen, WSD) else num_steps
        ends = "the decay begins" if stable < num_steps else "the run ends"
        yield Finding(
            "peak-never-reached",
            f"the warm-up takes {chosen.warmup_steps:,} steps, and {ends} at step {int(stable):,}: learning rates come "
            f"to {share:.0%} of their peak",
            f"optimization.schedule.warmup_steps={max(int(stable) // 10, 0)}",
            is_wrong=False,
        )


def epochs(num_steps: int, steps_per_epoch: int) -> Iterator[Finding]:
    """How often the data is read."""
    times = num_steps / max(steps_per_epoch, 1)
    if times > MOST_EPOCHS:
        yield Finding(
            "many-epochs",
            f"every sequence is read {times:,.0f} times in {num_steps:,} steps, and after {MOST_EPOCHS} times nothing"
            " more is learned from it, as a rule",
            f"max_steps={MOST_EPOCHS * max(steps_per_epoch, 1)} or more data; thetahat select finds the best of them",
            is_wrong=False,
        )
