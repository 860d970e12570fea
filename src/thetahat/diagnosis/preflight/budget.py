"""Whether the schedule fits the run, and the run its data."""

from collections.abc import Iterator

from thetahat.diagnosis.finding import Finding
from thetahat.optimization.config import WSD, OptimizationConfig

MOST_EPOCHS = 40  # by then repeated data is worth nothing more: Muennighoff et al., 2023, arXiv 2305.16264


def schedule(optimization: OptimizationConfig, num_steps: int) -> Iterator[Finding]:
    """The warm-up must end before the run, and before a decay begins; else the peak is never reached."""
    chosen = optimization.schedule
    stable = num_steps * (1 - chosen.decay) if isinstance(chosen, WSD) else num_steps
    if chosen.warmup_steps > max(stable, 1):
        ends = "the decay begins" if stable < num_steps else "the run ends"
        yield Finding(
            "peak-never-reached",
            f"the warm-up takes {chosen.warmup_steps:,} steps, and {ends} at step {int(stable):,}",
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
