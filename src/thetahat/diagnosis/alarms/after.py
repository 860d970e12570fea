"""The failures that show inside the model, measured from time to time after an update."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from thetahat.diagnosis.alarms.alarm import Alarm, Name, Severity
from thetahat.diagnosis.alarms.memory import Memory
from thetahat.diagnosis.alarms.setting import Setting
from thetahat.diagnosis.signals.probe import Layer
from thetahat.diagnosis.signals.updates import Update
from thetahat.optimization.schedule import learning_rate_factor

PERSISTS = 2  # measurements, or evaluations, in a row above a bound
LEAST_MOVED = 0.5  # of elements with a gradient; the rest is lost by rounding
MOST_MOVED = 0.3  # of its own size, by which a region may move in one step
SETTLED = 100  # steps, before which tables that begin small may move farther
SURPRISED = 2.3  # lag of a second moment, behind which spikes follow (arXiv 2304.13013)
BELOW = 0.1  # of elements may have a second moment below epsilon
LARGE, HUGE = 1e2, 1e3  # attention logits: Kimi K2's exceeded 1,000 before they were clipped (arXiv 2507.20534)
GROWTH = 1.1  # between two measurements
LEAST_RATE = 0.02  # of the peak: at the end of a decay nothing moves
SHOWN = 3  # names in a line


@dataclass(frozen=True, slots=True)
class Inner:
    """What was measured inside the model after an update."""

    step: int
    every: int  # steps between two measurements
    updates: Mapping[str, Update]  # by parameter
    regions: Mapping[str, Update]  # the same by region
    layers: Sequence[Layer]
    diverged: tuple[int, str] | None = None  # the first rank that has another value, and of which parameter


def told_of(inner: Inner) -> dict[str, dict[str, float]]:
    """What metrics.jsonl has of it: numbers by region, and by block."""
    regions, layers = inner.regions, inner.layers
    return {
        "update_ratio": {name: one.ratio for name, one in regions.items()},
        "moved": {name: one.moved for name, one in regions.items()},
        "second_moment_lag": {name: one.surprise for name, one in regions.items() if one.surprise},
        "below_epsilon": {name: one.below_epsilon for name, one in regions.items() if one.surprise},
        "max_attention_logit": {one.name: one.max_logit for one in layers if one.has_attention},
        "attention_entropy": {one.name: one.entropy for one in layers if one.has_attention},
        "residual_rms": {one.name: one.residual for one in layers},
    }


def _learns(inner: Inner, setting: Setting) -> bool:
    """Whether the learning rate is large enough that an update should move what has a gradient."""
    return learning_rate_factor(setting.optimization.schedule, inner.step - 1, setting.num_steps) > LEAST_RATE


def rank_divergence(inner: Inner, setting: Setting, memory: Memory) -> Iterator[Alarm]:
    """Ranks that should hold the same parameters do not: a fault of the machine, or of the code."""
    if inner.diverged:
        rank, name = inner.diverged
        what = f"rank {rank} has other bits of it than the first rank that should have the same"
        yield Alarm("rank-divergence", "critical", inner.step, what, {"rank": float(rank)}, name)


def not_updated(inner: Inner, setting: Setting, memory: Memory) -> Iterator[Alarm]:
    """A tensor with a gradient that no update moves."""
    if not _learns(inner, setting):
        return
    if stuck := [name for name, one in inner.updates.items() if one.has_gradient and one.moved == 0]:
        more = f" (and {len(stuck) - 1} tensors more)" if len(stuck) > 1 else ""
        what = f"it has a gradient, and the update did not move it{more}"
        yield Alarm("not-updated", "critical", inner.step, what, {"tensors": float(len(stuck))}, stuck[0])


def underflowing_updates(inner: Inner, setting: Setting, memory: Memory) -> Iterator[Alarm]:
    """Updates that are smaller than what rounding leaves of them."""
    is_asked = _learns(inner, setting)
    moved = {name: one.moved for name, one in inner.updates.items() if one.has_gradient and is_asked}
    lost = {name: 1 - share for name, share in moved.items() if 0 < share < LEAST_MOVED}
    yield from _above("underflowing-updates", lost, inner, memory, "the update does not move {:.0%} of its elements")


def learning_rate_too_high(inner: Inner, setting: Setting, memory: Memory) -> Iterator[Alarm]:
    """An update overwrites what was learned."""
    is_settled = inner.step - setting.first_step > SETTLED
    far = {name: one.ratio for name, one in inner.regions.items() if one.ratio > MOST_MOVED and is_settled}
    what = "one update moves it by {:.0%} of its own size"
    yield from _above("learning-rate-too-high", far, inner, memory, what, setting.slower())


def stale_second_moment(inner: Inner, setting: Setting, memory: Memory) -> Iterator[Alarm]:
    """The second moment lags behind the gradient; spikes follow 1 to 8 steps later."""
    lag = {name: one.surprise for name, one in inner.regions.items() if one.surprise >= SURPRISED}
    what = "its gradient is {:.1f} times as large as its second moment"
    yield from _above("stale-second-moment", lag, inner, memory, what, _beta(setting))


def epsilon_too_large(inner: Inner, setting: Setting, memory: Memory) -> Iterator[Alarm]:
    """Epsilon, and not the second moment, decides how far elements move."""
    small = {name: one.below_epsilon for name, one in inner.updates.items() if one.below_epsilon > BELOW}
    what = "{:.0%} of its elements have a second moment below the square of epsilon"
    yield from _above("epsilon-too-large", small, inner, memory, what, _epsilon(setting))


def exploding_attention_logits(inner: Inner, setting: Setting, memory: Memory) -> Iterator[Alarm]:
    """Attention logits grow and grow; attention then sees one position, and the loss spikes."""
    grown = {
        one.name: one.max_logit
        for one in inner.layers
        if one.max_logit > LARGE and one.max_logit > GROWTH * memory.logits.get(one.name, one.max_logit)
    }
    memory.logits = {one.name: one.max_logit for one in inner.layers if one.has_attention}
    if grown:
        where = max(grown, key=lambda name: grown[name])
        severity: Severity = "critical" if grown[where] > HUGE else "warning"
        what = f"its largest attention logit is {grown[where]:,.0f}, and it grows"
        advice = ("model.attention.query_key_norm=head",)
        yield Alarm("exploding-attention-logits", severity, inner.step, what, {"max": grown[where]}, where, advice)


RULES: tuple[Callable[[Inner, Setting, Memory], Iterator[Alarm]], ...] = (
    rank_divergence,
    not_updated,
    underflowing_updates,
    learning_rate_too_high,
    stale_second_moment,
    epsilon_too_large,
    exploding_attention_logits,
)


def _above(
    name: Name,
    found: Mapping[str, float],
    inner: Inner,
    memory: Memory,
    what: str,
    advice: tuple[str, ...] = (),
) -> Iterator[Alarm]:
    """An alarm where something is above its bound in PERSISTS measurements in a row; `what` has a place for it."""
    memory.over[name] = memory.over.get(name, 0) + 1 if found else 0
    if memory.over[name] >= PERSISTS:
        where = max(found, key=lambda one: found[one])
        more = f" ({len(found) - 1} more likewise)" if len(found) > 1 else ""
        evidence = {"value": found[where], "tensors": float(len(found))}
        yield Alarm(name, "warning", inner.step, f"{what.format(found[where])}{more}", evidence, where, advice)


def _beta(setting: Setting) -> tuple[str, ...]:
    rules = {name: getattr(setting.optimization, name) for name in ("matrices", "embeddings", "vectors")}
    return tuple(f"optimization.{name}.beta2=0.95" for name, rule in rules.items() if getattr(rule, "beta2", 0) > 0.95)


def _epsilon(setting: Setting) -> tuple[str, ...]:
    rules = {name: getattr(setting.optimization, name) for name in ("matrices", "embeddings", "vectors")}
    large = {name: rule.epsilon for name, rule in rules.items() if hasattr(rule, "epsilon")}
    return tuple(f"optimization.{name}.epsilon={epsilon / 100:g}" for name, epsilon in large.items())
