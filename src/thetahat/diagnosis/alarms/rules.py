"""The failures that show before an update, each with its threshold and its source."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from thetahat.diagnosis.alarms.alarm import Alarm
from thetahat.diagnosis.alarms.memory import Memory
from thetahat.diagnosis.alarms.setting import Setting
from thetahat.diagnosis.signals.seen import Seen
from thetahat.optimization.config import OptimizationConfig

SIGMAS = 6.0  # robust standard deviations over 128 steps, as OLMo-core compares losses
LEAST_RISE = 0.1  # of the usual value, so that a very steady run is not alarmed by little
LEAST_TARGETS = 64  # of a step: the mean of fewer varies too much to be compared
SPIKE = 10.0  # times the usual norm of the gradient: healthy runs have single steps of 7 times
RETURNS = 3  # spikes of the gradient within FIRST steps; a single one is chance, and Adam forgets it
EMBEDDING_SPIKE = 10.0  # likewise of embeddings, before the collapse of GLM-130B (arXiv 2210.02414)
PERSISTS = 5  # steps, as llm-foundry waits
MOST_EXCESS = 12.0  # robust deviations of the worst of a step: largest values have an exponential tail
LEAST_EXCESS = 1.0  # nats a target
KNOWN = 0.5  # nats a target, which nothing has learned in 1 % of a run
LEAST_READ = 50_000  # targets, before which a model may not know more than shares
STUCK = 0.05  # nats a target from what the shares of tokens alone give
FIRST = 100  # steps
CLIPPED = 0.9  # of them
FAR_CLIPPED = 10.0  # times the largest norm, in the median
VANISHED = 1e-2  # first block's gradient over the last one's
DRIFTED, DRIFT = 10.0, 1.05  # nats of |log Z|, and its growth in each of three times FIRST steps


@dataclass(frozen=True, slots=True)
class Look:
    """A step beside what is usual."""

    seen: Seen
    setting: Setting
    memory: Memory
    deviation: Mapping[str, float]  # of each signal, in robust standard deviations
    usual: Mapping[str, float]  # the trend of each; NaN where none is known

    @property
    def age(self) -> int:
        """Steps of this run, this one included."""
        return self.seen.step - self.setting.first_step

    @property
    def has_enough(self) -> bool:
        """Whether the step has enough targets for its mean to be compared."""
        return self.seen.num_targets >= LEAST_TARGETS

    @property
    def is_spike(self) -> bool:
        """Whether the likelihood is far below what is usual."""
        usual = self.usual["nats"]
        return self.has_enough and self.deviation["nats"] > SIGMAS and self.seen.nats > usual + LEAST_RISE * abs(usual)

    @property
    def spikes(self) -> int:
        """How many of the FIRST steps before this one had a spike of the gradient, RETURNS - 1 at most."""
        return sum(self.seen.step - step < FIRST for step in self.memory.spikes)

    @property
    def is_bad_batch(self) -> bool:
        """Whether a sequence is far worse than the worst of other steps."""
        return self.deviation["excess"] > MOST_EXCESS and self.seen.excess > self.usual["excess"] + LEAST_EXCESS


def loss_spike(look: Look) -> Iterator[Alarm]:
    """The step is much less likely than usual."""
    if look.is_spike:
        seen, usual, z = look.seen, look.usual["nats"], look.deviation["nats"]
        yield Alarm(
            "loss-spike",
            "critical" if seen.nats > 2 * usual else "warning",
            seen.step,
            f"{seen.nats:.3f} nats a target, {usual:.3f} were expected ({z:.0f} robust standard deviations)",
            {"nats_per_token": seen.nats, "expected": usual, "deviations": z, "gradient_norm": seen.gradient_norm},
        )


def diverging(look: Look) -> Iterator[Alarm]:
    """A spike that does not end."""
    if look.is_spike and look.memory.risen + 1 >= PERSISTS:
        seen, usual = look.seen, look.usual["nats"]
        yield Alarm(
            "diverging",
            "critical",
            seen.step,
            f"{seen.nats:.3f} nats a target in the {PERSISTS}th step in a row above the {usual:.3f} of before",
            {"nats_per_token": seen.nats, "before": usual, "steps": float(PERSISTS)},
            advice=look.setting.slower(),
        )


def gradient_spike(look: Look) -> Iterator[Alarm]:
    """The gradient is many times as long as usual; where embeddings lead, a collapse of the loss often follows.

    A single step is a note: next to a query or key of length 0, normalization makes long gradients in healthy runs.
    """
    ratios = {name: norm / usual for name, norm in look.seen.norms.items() if (usual := _norm(look, name)) > 0}
    if not ratios or not look.has_enough:
        return
    usual, norm = _norm(look, "gradient_norm"), look.seen.gradient_norm
    where = max(ratios, key=lambda name: ratios[name])
    evidence = {"gradient_norm": norm, "usual": usual, "region_norm": look.seen.norms[where], "ratio": ratios[where]}
    is_far = where.endswith("embedding") and ratios[where] > EMBEDDING_SPIKE
    if is_far and look.deviation[f"log_norm/{where}"] > SIGMAS and not (look.is_spike or look.is_bad_batch):
        yield Alarm(
            "embedding-gradient-spike",
            "critical",
            look.seen.step,
            f"its gradient is {ratios[where]:.0f} times as long as usual",
            evidence,
            where,
            _smaller_embeddings(look.setting.optimization),
        )
    elif look.deviation["log_gradient_norm"] > SIGMAS and norm > SPIKE * usual:
        clip = look.setting.optimization.clip
        yield Alarm(
            "gradient-spike",
            "warning" if look.spikes + 1 >= RETURNS else "note",
            look.seen.step,
            f"the norm of the gradient is {norm:.3g}, and {usual:.3g} is usual; this part's grew most,"
            f" {ratios[where]:.0f} times",
            evidence,
            where,
            (f"optimization.clip={_round(2 * usual)}",) if clip is None or clip > 2 * usual else (),
        )


def bad_batch(look: Look) -> Iterator[Alarm]:
    """A sequence costs far more than the others of its step, and than the worst of other steps."""
    if look.is_bad_batch:
        worst, usual = look.seen.worst[0], look.usual["excess"]
        yield Alarm(
            "bad-batch",
            "warning",
            look.seen.step,
            f"a sequence of {worst.num_tokens:,} targets costs {worst.nats:.2f} nats each; it exceeds the median of its"
            f" step by {worst.excess:.2f}, where {usual:.2f} is usual for the worst",
            {"nats_per_token": worst.nats, "excess": worst.excess, "usual": usual},
        )


def output_logit_drift(look: Look) -> Iterator[Alarm]:
    """The log-normalizer grows and grows: log-probabilities keep their values and logits lose their precision."""
    marks = look.memory.marks[-3:]
    if len(marks) == 3 and marks[0] > DRIFTED and all(b > DRIFT * a for a, b in itertools.pairwise(marks)):
        yield Alarm(
            "output-logit-drift",
            "warning",
            look.seen.step,
            f"|log Z| went from {marks[0]:.1f} to {marks[-1]:.1f} nats in {2 * FIRST} steps",
            {"before": marks[0], "now": marks[-1]},
            advice=("optimization.embeddings.weight_decay=0.1",),
        )


def knows_targets_already(look: Look) -> Iterator[Alarm]:
    """Nothing learns so much so early: the model reads what it should predict."""
    is_early = look.age <= max(0.01 * look.setting.num_steps, 3)
    is_hard = look.setting.is_drawn and (look.setting.unigram_entropy or 0.0) > 2 * KNOWN
    if is_early and is_hard and look.seen.nats < KNOWN:
        yield Alarm(
            "knows-targets-already",
            "critical",
            look.seen.step,
            f"{look.seen.nats:.3f} nats a target after {look.age - 1} updates: the model reads what it should predict",
            {"nats_per_token": look.seen.nats, "unigram_entropy": look.setting.unigram_entropy or 0.0},
        )


def loss_stuck(look: Look) -> Iterator[Alarm]:
    """After the warm-up and many steps more the model knows the shares of tokens at most, and learns nothing more."""
    entropy, usual = look.setting.unigram_entropy, look.usual["nats"]
    is_still = look.memory.halfway - usual < STUCK
    if _is_due(look) and look.setting.is_drawn and entropy and usual > entropy - STUCK and is_still:
        yield Alarm(
            "loss-stuck",
            "critical",
            look.seen.step,
            f"{usual:.3f} nats a target, and the shares of tokens alone give {entropy:.3f}",
            {"nats_per_token": usual, "unigram_entropy": entropy},
        )


def _is_due(look: Look) -> bool:
    """Whether this is the first step after which a run may be called stuck."""
    begin, before = stuck_from(look.setting), look.memory.targets
    may_before = look.age > begin and before >= LEAST_READ
    return look.age >= begin and before + look.seen.num_targets >= LEAST_READ and not may_before


def stuck_from(setting: Setting) -> int:
    """The step from which a run may be called stuck."""
    return setting.optimization.schedule.warmup_steps + min(max(setting.num_steps // 20, FIRST), 10 * FIRST)


def no_warm_up(look: Look) -> Iterator[Alarm]:
    """Almost every step of the beginning was clipped, and by far, and there was no warm-up."""
    chosen, clipped = look.setting.optimization, look.memory.clipped
    if look.age != FIRST or chosen.clip is None or chosen.schedule.warmup_steps >= FIRST // 10:
        return
    median = float(np.median(clipped)) if clipped else 0.0
    if sum(ratio > 1 for ratio in clipped) >= CLIPPED * len(clipped) and median > FAR_CLIPPED:
        yield Alarm(
            "no-warm-up",
            "warning",
            look.seen.step,
            f"of the first {FIRST} steps {sum(ratio > 1 for ratio in clipped)} were clipped, in the median"
            f" {median:.0f} times",
            {"clipped": float(sum(ratio > 1 for ratio in clipped)), "median_ratio": median},
            advice=(f"optimization.schedule.warmup_steps={2 * FIRST}",),
        )


def vanishing_gradients(look: Look) -> Iterator[Alarm]:
    """At the beginning the gradient of the first block is much shorter than that of the last one."""
    ratios = look.memory.depth_ratios
    if look.age == 10 and len(ratios) >= 9 and look.setting.is_drawn and (found := float(np.median(ratios))) < VANISHED:
        blocks = look.setting.regions.blocks
        yield Alarm(
            "vanishing-gradients",
            "warning",
            look.seen.step,
            f"its gradient is {found:.1e} times as long as that of {blocks[-1][0].rpartition('.')[0]}",
            {"ratio": found},
            blocks[0][0].rpartition(".")[0],
            ("model.placement=pre",),
        )


# Causes come before what follows from them.
RULES: tuple[Callable[[Look], Iterator[Alarm]], ...] = (
    bad_batch,
    loss_spike,
    diverging,
    gradient_spike,
    output_logit_drift,
    knows_targets_already,
    loss_stuck,
    no_warm_up,
    vanishing_gradients,
)


def _norm(look: Look, name: str) -> float:
    """The usual norm of a region, or of the whole gradient; 0 where none is known."""
    usual = look.usual["log_gradient_norm" if name == "gradient_norm" else f"log_norm/{name}"]
    return float(np.exp(usual)) if np.isfinite(usual) else 0.0


def _smaller_embeddings(optimization: OptimizationConfig) -> tuple[str, ...]:
    rule = optimization.embeddings
    found = [f"optimization.embeddings.learning_rate={rule.learning_rate / 2:g}"]
    return tuple([*found, "optimization.embeddings.weight_decay=0"] if rule.weight_decay else found)


def _round(value: float) -> str:
    return f"{value:.2g}"
