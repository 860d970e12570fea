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
    """Steps of linear warm-up from 0 to the peak learning rate."""

    def __post_init__(self) -> None:
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "a whole number of steps >= 0")


class Cosine(Config, frozen=True, kw_only=True, tag="cosine", tag_field="kind"):
    """A linear warm-up, then half a cosine from the peak to `final` of it at the end of the run."""

    warmup_steps: int = 0
    """Steps of linear warm-up from 0 to the peak learning rate."""
    final: float = 0.1
    """The learning rate at the end, as a fraction of the peak."""

    def __post_init__(self) -> None:
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "a whole number of steps >= 0")
        _require(0 <= self.final <= 1, "final", self.final, "a fraction of the peak, from 0 to 1")


class WSD(Config, frozen=True, kw_only=True, tag="wsd", tag_field="kind"):
    """Warm-up, stable, decay: the last `decay` of the run goes linearly from the peak to `final` of it."""

    warmup_steps: int = 0
    """Steps of linear warm-up from 0 to the peak learning rate."""
    decay: float = 0.2
    """The last share of the run, in which the rate declines linearly."""
    final: float = 0.0
    """The learning rate at the end, as a fraction of the peak."""

    def __post_init__(self) -> None:
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "a whole number of steps >= 0")
        _require(0 < self.decay <= 1, "decay", self.decay, "a fraction of the run, above 0 and at most 1")
        _require(0 <= self.final <= 1, "final", self.final, "a fraction of the peak, from 0 to 1")


class AdamW(Config, frozen=True, kw_only=True, tag="adamw", tag_field="kind"):
    """Adam with decoupled weight decay: a step of about the learning rate in every coordinate."""

    learning_rate: float
    """The peak learning rate, which the schedule multiplies."""
    beta1: float = 0.9
    """Decay rate of the mean of gradients."""
    beta2: float = 0.95
    """Decay rate of the mean of squared gradients."""
    epsilon: float = 1e-8
    """Added to the root of the mean square, so that nothing is divided by 0."""
    weight_decay: float = 0.0
    """Decoupled weight decay: each step also shrinks parameters by learning rate times this."""

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
    """The peak learning rate, which the schedule multiplies."""
    momentum: float = 0.95
    """Decay rate of the mean of gradients (Nesterov's momentum)."""
    weight_decay: float = 0.0
    """Decoupled weight decay: each step also shrinks parameters by learning rate times this."""
    num_iterations: int = 5
    """Newton-Schulz iterations of the orthogonalization."""
    scale: Literal["shape", "rms"] = "shape"
    """How a step grows with a matrix's shape: shape, or rms to match the steps of AdamW and its learning rates."""

    def __post_init__(self) -> None:
        _require(0 < self.learning_rate < INFINITY, "learning_rate", self.learning_rate, "a number above 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        _require(0 <= self.weight_decay < INFINITY, "weight_decay", self.weight_decay, "a number >= 0")
        _require(self.num_iterations >= 1, "num_iterations", self.num_iterations, "a whole number >= 1")
        _require(self.scale in ("shape", "rms"), "scale", self.scale, "shape, rms")


class OptimizationConfig(Config, frozen=True, kw_only=True):
    """An update rule for each kind of parameter, their common schedule, and the clipping of the gradient."""

    matrices: Muon | AdamW
    """The update rule of the matrices inside the blocks."""
    embeddings: AdamW
    """The update rule of the tables of tokens and positions, and of the head."""
    vectors: AdamW
    """The update rule of gains and biases."""
    schedule: Constant | Cosine | WSD = Constant()
    """How learning rates change over the run, the same for all parameters."""
    clip: float | None = None
    """The largest global norm of the gradient; a larger gradient is scaled down to it. none: measured, not clipped."""
    ema: float | None = None
    """Decay rate, a step, of an exponential moving average of the parameters (EMA), kept beside them; none: there is
    none.
    """

    def __post_init__(self) -> None:
        if self.clip is not None:
            _require(0 < self.clip < INFINITY, "clip", self.clip, "a number above 0, or none")
        if self.ema is not None:
            _require(0 < self.ema < 1, "ema", self.ema, "a number above 0 and below 1, for example 0.999, or none")
