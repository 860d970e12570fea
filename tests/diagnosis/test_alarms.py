"""Every alarm is raised by the failure that it names, once, and by nothing that is healthy."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from thetahat.core.errors import ConfigError
from thetahat.diagnosis.alarms.alarm import NAMES
from thetahat.diagnosis.alarms.baseline import LEAST, MOST_FROZEN, WINDOW, Baselines
from thetahat.diagnosis.alarms.detector import QUIET, Detector
from thetahat.diagnosis.alarms.rules import FIRST, PERSISTS
from thetahat.diagnosis.alarms.setting import Setting
from thetahat.diagnosis.config import DiagnosisConfig
from thetahat.diagnosis.signals.regions import Regions
from thetahat.diagnosis.signals.seen import Seen, Worst
from thetahat.ledger.summary import Summary
from thetahat.optimization.config import AdamW, Constant, OptimizationConfig

BLOCKS = [f"blocks.{number}.{part}" for number in range(4) for part in ("attention", "mlp")]
REGIONS = Regions(("embedding", *BLOCKS, "vectors"))


def optimization(clip=1.0, warmup_steps=0):
    rule = AdamW(learning_rate=0.01)
    return OptimizationConfig(
        matrices=rule, embeddings=rule, vectors=rule, schedule=Constant(warmup_steps=warmup_steps), clip=clip
    )


def setting(**changes):
    chosen = dict(num_steps=1000, first_step=0, is_drawn=True, regions=REGIONS, unigram_entropy=5.0)
    return Setting(**{"optimization": optimization(), **chosen, **changes})


def seen(step, draw, **changes):
    """A step of a run that learns: a falling loss with noise, gradients of log-normal norm, some worst sequence."""
    nats = 2.5 + 4.5 * math.exp(-step / 60) + 0.03 * draw.standard_normal()
    norms = {name: 0.3 * math.exp(0.2 * draw.standard_normal()) for name in REGIONS.names}
    excess = 0.4 + 0.1 * draw.gumbel()
    plain = dict(
        step=step,
        num_targets=1000,
        nats=nats,
        log_normalizer=6.0 + 0.01 * draw.standard_normal(),
        gradient_norm=math.hypot(*norms.values()),
        learning_rate_factor=1.0,
        norms=norms,
        worst=[Worst(excess, nats + excess, 60, 0, 3)],
        is_finite=True,
    )
    scaled = changes.pop("scaled", None)
    if scaled:
        plain["norms"] = {name: norm * scaled.get(name, 1.0) for name, norm in norms.items()}
        plain["gradient_norm"] = math.hypot(*plain["norms"].values())
    more = changes.pop("more", 0.0)
    return Seen(**(plain | {"nats": nats + more} | changes))


def raised(changes=None, num_steps=300, seed=0, **about):
    """The alarms of a run in which some steps are changed, as (name, step)."""
    detector, draw = Detector(setting(**about)), np.random.default_rng(seed)
    found = []
    for step in range(1, num_steps + 1):
        found += taken(detector, seen(step, draw, **(changes(step) if changes else {}))).new
    return found


def taken(detector, one):
    found = detector(one)
    detector.take(found)
    return found


def names(alarms):
    return [(alarm.name, alarm.step) for alarm in alarms]


@pytest.mark.parametrize("seed", range(6))
def test_a_run_that_learns_raises_nothing(seed):
    assert names(raised(seed=seed, num_steps=600)) == []


def test_a_spike_is_raised_once_with_what_was_expected():
    (alarm,) = raised(lambda step: {"more": 1.5} if step in (150, 151) else {})
    assert (alarm.name, alarm.step, alarm.severity) == ("loss-spike", 150, "warning")
    assert alarm.evidence["expected"] == pytest.approx(2.5 + 4.5 * math.exp(-150 / 60), abs=0.2)


def test_the_mean_of_a_few_targets_is_not_compared():
    found = raised(
        lambda step: {"num_targets": 8} | ({"more": 4.0, "scaled": {"embedding": 99.0}} if step > 150 else {})
    )
    assert names(found) == []


def test_a_spike_that_comes_back_after_a_while_is_raised_again():
    changed = {150, 150 + QUIET, 151 + 2 * QUIET}
    assert names(raised(lambda step: {"more": 1.5} if step in changed else {})) == [
        ("loss-spike", 150),
        ("loss-spike", 151 + 2 * QUIET),
    ]


def test_a_spike_that_stays_is_a_divergence_and_halves_learning_rates():
    found = raised(lambda step: {"more": 4.0} if step >= 200 else {})
    assert names(found) == [("loss-spike", 200), ("diverging", 200 + PERSISTS - 1)]
    assert found[1].advice[0] == "optimization.matrices.learning_rate=0.005"
    assert found[0].severity == "critical"


def test_what_stays_longer_is_the_new_usual():
    detector, draw = Detector(setting()), np.random.default_rng(0)
    for step in range(1, 1000):
        found = taken(detector, seen(step, draw, more=4.0 if step >= 200 else 0.0))
    assert found.holding == []
    assert detector.baselines.level[0] == pytest.approx(6.5, abs=0.1)


def test_a_gradient_that_grows_is_named_with_its_part():
    found = raised(lambda step: {"scaled": {"blocks.2.mlp": 100.0}} if step == 150 else {})
    assert [(alarm.name, alarm.where) for alarm in found] == [("gradient-spike", "blocks.2.mlp")]
    found = raised(lambda step: {"scaled": {"embedding": 50.0}} if step == 150 else {})
    assert [(alarm.name, alarm.where) for alarm in found] == [("embedding-gradient-spike", "embedding")]


@pytest.mark.parametrize(
    ("spikes", "expected"),
    [
        ([150], [(150, "note")]),
        ([150, 250, 350], [(150, "note"), (250, "note"), (350, "note")]),  # two within 100 steps at most
        ([150, 155, 160], [(150, "note"), (160, "warning")]),
        ([150, 190, 230, 231], [(150, "note"), (190, "note"), (230, "warning")]),
        ([*range(150, 160)], [(150, "note"), (152, "warning")]),
        ([150, 160, 290], [(150, "note"), (290, "note")]),
    ],
)
def test_a_single_spike_of_the_gradient_is_a_note_and_one_that_returns_a_warning(spikes, expected):
    found = raised(lambda step: {"scaled": {"blocks.2.mlp": 100.0}} if step in spikes else {}, num_steps=400)
    assert [(alarm.step, alarm.severity) for alarm in found] == expected
    assert {alarm.name for alarm in found} == {"gradient-spike"}
    assert all(str(alarm).startswith("note: ") == (alarm.severity == "note") for alarm in found)


def test_a_sequence_that_stands_out_is_a_bad_batch():
    def worst(step):
        return {"worst": [Worst(6.0, 9.0, 60, 0, 2)]} if step == 150 else {}

    assert names(raised(worst)) == [("bad-batch", 150)]
    assert names(raised(lambda step: {"worst": []})) == []


def test_logits_that_drift_are_said():
    found = raised(lambda step: {"log_normalizer": 12.0 + step / 10}, num_steps=420)
    assert names(found) == [("output-logit-drift", 301)]
    assert names(raised(lambda step: {"log_normalizer": 12.0 - step / 100}, num_steps=420)) == []


def test_a_run_that_knows_too_much_too_early_is_stopped_in_time():
    changed = {"more": -6.6}
    assert names(raised(lambda step: changed if step >= 2 else {}, num_steps=3)) == [("knows-targets-already", 2)]
    assert names(raised(lambda step: changed, num_steps=3, is_drawn=False)) == []


def test_a_run_that_learns_nothing_of_contexts_is_said():
    def stuck(step):
        return {"nats": 5.02}

    assert names(raised(stuck)) == [("loss-stuck", FIRST)]
    assert names(raised(stuck, optimization=optimization(warmup_steps=50))) == [("loss-stuck", FIRST + 50)]
    assert names(raised(stuck, unigram_entropy=None)) == []
    assert names(raised(lambda step: {"nats": 4.9})) == []
    few = raised(lambda step: {"nats": 5.02, "num_targets": 200})
    assert names(few) == [("loss-stuck", 250)]
    assert names(raised(lambda step: {"nats": 6.0 - 0.5 * step / FIRST})) == []  # it still learns


def test_a_beginning_that_is_clipped_without_a_warm_up_is_said():
    def far(step):
        return {"gradient_norm": 30.0}

    assert ("no-warm-up", FIRST) in names(raised(far))
    assert "no-warm-up" not in dict(names(raised(far, optimization=optimization(warmup_steps=100))))
    assert "no-warm-up" not in dict(names(raised(lambda step: {"gradient_norm": 3.0})))


def test_gradients_that_vanish_with_depth_are_said():
    first = {"blocks.0.attention": 1e-3, "blocks.0.mlp": 1e-3}
    (alarm,) = raised(lambda step: {"scaled": first}, num_steps=40)
    assert (alarm.name, alarm.step, alarm.where) == ("vanishing-gradients", 10, "blocks.0")


def test_what_is_not_finite_is_named_with_its_part_and_not_taken_in():
    detector, draw = Detector(setting()), np.random.default_rng(0)
    for step in range(1, 60):
        taken(detector, seen(step, draw))
    before = detector.to_dict()["baselines"]
    sick = {name: math.nan if name == "blocks.1.mlp" else 1.0 for name in REGIONS.names}
    (alarm,) = taken(detector, seen(60, draw, norms=sick, gradient_norm=math.nan, is_finite=False)).new
    assert (alarm.name, alarm.where, alarm.severity) == ("non-finite", "blocks.1.mlp", "critical")
    assert detector.to_dict()["baselines"] == before


@given(seed=st.integers(0, 10_000), size=st.integers(1, 300))
def test_a_baseline_is_trend_median_and_deviation(seed, size):
    draw = np.random.default_rng(seed)
    values = np.cumsum(draw.standard_normal((size, 2)), 0)
    found = Baselines(["a", "b"])
    for row in values:
        found.take(row, np.zeros(2, bool))
    new = draw.standard_normal(2)
    z = found.deviations(new)
    for column in range(2):
        level, residuals = values[0, column], []
        for value in values[1:, column]:
            residuals.append(np.float32(value - level))
            level = 0.9 * level + 0.1 * value
        if len(residuals) < LEAST:
            assert z[column] == 0
            continue
        last = np.array(residuals[-WINDOW:], np.float64)
        if len(last) < WINDOW:
            order = [len(residuals) - len(last) + place for place in range(len(last))]
            last = np.resize(np.array(residuals, np.float64)[order], WINDOW)
        spread = 1.4826 * np.median(np.abs(last - np.median(last)))
        assert z[column] == pytest.approx((new[column] - level - np.median(last)) / spread, rel=1e-6)


def test_a_baseline_that_is_frozen_keeps_and_then_begins_anew():
    found = Baselines(["a"])
    for value in range(40):
        found.take(np.array([float(value)]), np.array([False]))
    before = found.level.copy()
    for _ in range(MOST_FROZEN):
        found.take(np.array([500.0]), np.array([True]))
    assert (found.level, found.count) == (before, 39)
    found.take(np.array([500.0]), np.array([True]))
    assert (found.level, found.count) == (500.0, 0)
    assert found.deviations(np.array([900.0])) == 0


def test_what_a_checkpoint_keeps_goes_on_to_the_bit():
    whole, draw = Detector(setting()), np.random.default_rng(3)
    steps = [seen(step, draw, more=2.0 if step in (120, 170) else 0.0) for step in range(1, 260)]
    expected = [taken(whole, one).new for one in steps]
    half = Detector(setting())
    for one in steps[:130]:
        taken(half, one)
    again = Detector(setting())
    again.load(json.loads(json.dumps(half.to_dict())))
    assert [taken(again, one).new for one in steps[130:]] == expected[130:]
    assert again.to_dict() == whole.to_dict()
    other = Detector(setting(regions=Regions(("embedding",))))
    other.load(half.to_dict())
    assert other.to_dict() == Detector(setting(regions=Regions(("embedding",)))).to_dict()


def test_an_alarm_is_told_in_one_line_and_as_json():
    (alarm,) = raised(lambda step: {"more": 1.5} if step == 150 else {})
    assert str(alarm).startswith("loss-spike at step 150: ")
    told = json.loads(json.dumps(alarm.to_dict(), allow_nan=False))
    assert set(told) >= {"name", "severity", "step", "what", "evidence", "where", "advice", "suspects", "action"}
    assert told["name"] in NAMES


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"policies": {"los-spike": "skip"}},
            r"is no alarm\n  allowed: non-finite, loss-spike.*\n  try: diagnosis\.policies\.loss-spike=skip",
        ),
        ({"policies": {"non-finite": "record"}}, "would put what is not finite into the parameters"),
        ({"policies": {"loss-spike": "stop"}, "alarms": False}, "has no effect: diagnosis.alarms=false"),
        ({"patience": 2, "alarms": False}, "has no effect: diagnosis.alarms=false"),
        ({"policies": {"no-improvement": "stop"}}, "has no effect: diagnosis.patience=0"),
    ],
)
def test_a_policy_that_means_nothing_is_an_error(changes, said):
    with pytest.raises(ConfigError, match=said):
        DiagnosisConfig(**changes)


def summary(value, spread=0.02):
    interval = None if spread is None else (value - spread, value + spread)
    plain = dict.fromkeys(("num_documents", "num_tokens", "num_bytes", "num_interval_units"), 9)
    plain |= dict.fromkeys(("unknown_tokens", "unknown_bytes"), 0)
    plain |= dict(log_likelihood=-9.0, nats_per_token=value, perplexity=2.0, interval_unit="documents", lossless=True)
    none = dict(nats_per_token_ci95=None, perplexity_ci95=None)
    return Summary(bits_per_byte=value, bits_per_byte_ci95=interval, **plain, **none)


@pytest.mark.parametrize(
    ("values", "spread", "expected"),
    [
        ([2.0, 1.8, 1.7, 1.73, 1.75, 1.9], 0.02, [250]),
        ([2.0, 1.8, 1.7, 1.72, 1.75, 1.9], 0.02, [300]),
        ([2.0, 1.8, 1.7, 1.71, 1.70, 1.719], 0.02, []),
        ([2.0, 1.8, 1.7, 1.72, 1.74, 1.9], None, [300]),
        ([2.0, 1.7, 1.8, 1.9, 1.6, 1.65, 1.66], 0.02, [200, 350]),
        ([2.0, 1.8, 1.7, 1.8, 1.6, 1.65], 0.02, []),  # a single evaluation, then a better one
        ([2.0, 1.7, 1.8, 1.70, 1.8, 1.70], 0.02, []),  # not in a row
    ],
)
def test_what_is_held_out_and_gets_worse_while_training_improves_is_overfitting(values, spread, expected):
    detector, draw, found = Detector(setting()), np.random.default_rng(0), []
    for step in range(1, 50 * len(values) + 1):
        taken(detector, seen(step, draw, nats=5.0 - step / 100))
        if step % 50 == 0:
            found += detector.evaluated(step, summary(values[step // 50 - 1], spread))
    assert [(alarm.name, alarm.step) for alarm in found] == [("overfitting", step) for step in expected]
    assert all(alarm.advice == (f"max_steps={int(alarm.evidence['best_step'])}",) for alarm in found)


@pytest.mark.parametrize(
    ("values", "patience", "expected"),
    [
        ([2.0, 1.9, 1.9, 1.91, 1.9, 1.95], 2, [4]),
        ([2.0, 1.9, 1.91, 1.89, 1.9, 1.9], 2, [6]),
        ([2.0, 1.9, 1.91, 1.92, 1.93, 1.9], 5, []),
        ([2.0, 2.1, 1.9, 2.0, 1.8, 1.9], 1, [2, 4, 6]),
        ([2.0, 2.1, 2.2, 2.3, 2.4, 2.5], 0, []),
    ],
)
def test_evaluations_without_a_better_value_are_an_alarm_when_patience_ends(values, patience, expected):
    detector, found = Detector(replace(setting(), patience=patience)), []
    for number, value in enumerate(values, start=1):
        found += detector.evaluated(number, summary(value, 1.0))
        kept = detector.to_dict()  # as a checkpoint keeps it
        detector = Detector(replace(setting(), patience=patience))
        detector.load(kept)
    assert [(alarm.name, alarm.step) for alarm in found] == [("no-improvement", step) for step in expected]


def test_worse_values_while_training_gets_worse_too_are_no_overfitting():
    detector, draw = Detector(setting()), np.random.default_rng(0)
    for step in range(1, 101):
        taken(detector, seen(step, draw, nats=3.0 + step / 1000))
        if step in (50, 100):
            assert detector.evaluated(step, summary(1.5 + step / 50)) == []
