"""Whether a machine is slower than the README's, said while there is still time to choose a shorter run."""

import time

from msgspec.structs import replace

from thetahat.cli.progress import duration
from thetahat.core.plain import counted
from thetahat.recipes.quickstart import quickstart
from thetahat.run.config import RunConfig, digest

README_SECONDS = 131  # of training, evaluations included, as README.md says
EVALUATIONS = 1.05  # of the time of the steps alone: what evaluations and saves add
TOLERANCE = 1.5  # times as long as expected is worth a word
PATIENCE = 5.0  # seconds of steps before anything is said


class Pace:
    """Compares the steps of a run of the quickstart with the README's, and says what to type where they take longer."""

    def __init__(self, config: RunConfig) -> None:
        usual = quickstart()
        same = {name: getattr(config, name) for name in ("seed", "threads", "device", "max_steps")}
        self.is_known = digest(replace(usual, **same)) == digest(config)
        self.expected = README_SECONDS * config.max_steps / usual.max_steps
        self.num_steps, self.told = config.max_steps, TOLERANCE * self.expected
        self.last: float | None = None
        self.seconds, self.steps = 0.0, 0

    def __call__(self, paused: float) -> str:
        """What is to be said after one more step, as a rule nothing; `paused` is what an evaluation took meanwhile."""
        before, self.last = self.last, time.monotonic()
        if not self.is_known or before is None:
            return ""
        self.seconds, self.steps = self.seconds + self.last - before - paused, self.steps + 1
        if self.seconds < PATIENCE:
            return ""
        each = EVALUATIONS * self.seconds / self.steps
        self.seconds, self.steps = 0.0, 0
        if each * self.num_steps <= self.told:
            return ""
        self.told = TOLERANCE * each * self.num_steps
        fitting = max(int(self.expected / each) // 10 * 10, 10)
        return (
            f"this machine is slower than the README's, or busy: at this rate the run takes about "
            f"{duration(each * self.num_steps)}, not {duration(self.expected)}; --max-steps {fitting} "
            f"({counted(fitting, 'step')} instead of {self.num_steps:,}) takes about {duration(each * fitting)}"
        )
