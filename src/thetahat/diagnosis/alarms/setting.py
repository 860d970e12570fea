"""What must be known of a run to judge its steps."""

from dataclasses import dataclass

from thetahat.diagnosis.alarms.advice import slower
from thetahat.diagnosis.signals.regions import Regions
from thetahat.optimization.config import OptimizationConfig


@dataclass(frozen=True, slots=True)
class Setting:
    """What must be known of a run."""

    optimization: OptimizationConfig
    num_steps: int
    first_step: int  # updates that were made before this run began
    is_drawn: bool  # its parameters were drawn, not taken from another model
    regions: Regions
    unigram_entropy: float | None  # nats, of the targets; None: those are no tokens, or a plateau there is usual
    patience: int = 0  # evaluations without a better value after which that is an alarm; 0: it is none

    def slower(self) -> tuple[str, ...]:
        """Half of each learning rate, as KEY=VALUE."""
        return slower(self.optimization)
