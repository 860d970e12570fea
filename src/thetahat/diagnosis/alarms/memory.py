"""What alarms remember of earlier steps, beside the baselines; a checkpoint keeps it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

KEPT_MARKS = 3


@dataclass(slots=True)
class Memory:
    """Counts and a few numbers."""

    risen: int = 0  # steps in a row with a spike of the loss
    spikes: list[int] = field(default_factory=list[int])  # the last steps with a spike of the gradient
    clipped: list[float] = field(default_factory=list[float])  # norm over the largest one, of the first steps
    depth_ratios: list[float] = field(default_factory=list[float])  # first block's gradient over the last one's
    marks: list[float] = field(default_factory=list[float])  # |log Z| from time to time
    targets: int = 0  # of all steps
    halfway: float = 0.0  # the trend of the nats a target, halfway to when a run may be called stuck
    over: dict[str, int] = field(default_factory=dict[str, int])  # measurements in a row above a bound, by name
    logits: dict[str, float] = field(default_factory=dict[str, float])  # the largest attention logits of each block
    best_step: int = 0  # of the best evaluation; 0: there was none
    best_value: float = 0.0  # what was held out then
    best_trend: float = 0.0  # of the training then
    since_best: int = 0  # evaluations since the best one
    last: dict[str, int] = field(default_factory=dict[str, int])  # the step in which an alarm was last seen, by name

    def to_dict(self) -> dict[str, Any]:
        """All of it, as a checkpoint keeps it."""
        return asdict(self)

    @staticmethod
    def from_dict(kept: Mapping[str, Any]) -> "Memory":
        """What `to_dict` returned."""
        return Memory(**kept)
