"""The configs of optimizers and schedules."""

from typing import Literal

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError

INFINITY = float("inf")


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name}={value} does not fit", allowed=allowed)


class Constant(Config, frozen=True, kw_only=True, tag="constant", tag_field="kind"):
    """The peak learning rate, after a linear warm-up."""

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "a whole number of steps >= 0")


class Cosine(Config, frozen=True, kw_only=True, tag="cosine", tag_field="kind"):
    """A linear warm-up, then half a cosine from the peak to `final` of it at the end of the run."""

    warmup_steps: int = 0
    final: float = 0.1

    def __post_init__(self) -> None:
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "a whole number of steps >= 0")
        _require(0 <= self.final <= 1, "final", self.final, "a fraction of the peak, from 0 to 1")


class WSD(Config, frozen=True, kw_only=True, tag="wsd", tag_field="kind"):
    """Warm-up, stable, decay: the last `decay` of the run goes linearly from the peak to `final` of it."""

    warmup_steps: int = 0
    decay: float = 0.2
    final: float = 0.0

    def __post_init__(self) -> None:
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "a whole number of steps >= 0")
        _require(0 < self.decay <= 1, "decay", self.decay, "a fraction of the run, above 0 and at most 1")
        _require(0 <= self.final <= 1, "final", self.final, "a fraction of the peak, from 0 to 1")


class AdamW(Config, frozen=True, kw_only=True, tag="adamw", tag_field="kind"):
    """Adam with decoupled weight decay: a step of about the learning rate in every coordinate."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _require(0 < self.learning_rate < INFINITY, "learning_rate", self.learning_rate, "a number above 0")
        _require(0 <= self.beta1 < 1, "beta1", self.beta1, "from 0 to below 1")
        _require(0 <= self.beta2 < 1, "beta2", self.beta2, "from 0 to below 1")
        _require(0 < self.epsilon < INFINITY, "epsilon", self.epsilon, "a number above 0")
        _require(0 <= self.weight_decay < INFINITY, "weight_decay", self.weight_decay, "a number >= 0")


class Muon(Config, frozen=True, kw_only=True, tag="muon", tag_field="kind"):
    """Momentum, orthogonalized: a step of about the same size in every singular direction of a matrix.

    `scale` says how the step grows with the shape: "shape" multiplies it by sqrt(max(1, rows / columns)), "rms" by
    0.2 sqrt(max(rows, columns)), which moves each entry by as much as AdamW would, so its learning rates carry over.
    """

    learning_rate: float
    momentum: float = 0.95
    weight_decay: float = 0.0
    num_iterations: int = 5
    scale: Literal["shape", "rms"] = "shape"

    def __post_init__(self) -> None:
        _require(0 < self.learning_rate < INFINITY, "learning_rate", self.learning_rate, "a number above 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        _require(0 <= self.weight_decay < INFINITY, "weight_decay", self.weight_decay, "a number >= 0")
        _require(self.num_iterations >= 1, "num_iterations", self.num_iterations, "a whole number >= 1")
        _require(self.scale in ("shape", "rms"), "scale", self.scale, "shape, rms")


class OptimizationConfig(Config, frozen=True, kw_only=True):
    """An update rule for each kind of parameter, their common schedule, and the clipping of the gradient."""

    matrices: Muon | AdamW
    embeddings: AdamW  # of tokens, and the head
    vectors: AdamW  # gains and biases
    schedule: Constant | Cosine | WSD = Constant()
    clip: float | None = None  # global norm of the gradient; None: measured, not clipped

    def __post_init__(self) -> None:
        if self.clip is not None:
            _require(0 < self.clip < INFINITY, "clip", self.clip, "a number above 0, or none")
