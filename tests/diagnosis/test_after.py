"""What is measured inside the model raises the alarm that it is for, and nothing that is healthy."""

from dataclasses import replace as with_fields

import pytest
import torch
from msgspec.structs import replace

from tests.diagnosis.test_alarms import BLOCKS, optimization, setting
from thetahat.diagnosis.alarms.after import Inner, told_of
from thetahat.diagnosis.alarms.detector import QUIET_AFTER, Detector
from thetahat.diagnosis.signals.probe import Layer
from thetahat.diagnosis.signals.updates import Update, joined
from thetahat.optimization.config import WSD
from thetahat.run.diagnosis.inside import checksum

GOOD = Update(size=0.02, change=2e-5, moved=1.0, has_gradient=True, surprise=1.0, below_epsilon=0.0)
PARAMETERS = ["embedding.weight", *(f"{name}.weight" for name in BLOCKS)]
OF = ["embedding", *BLOCKS]


def inner(step, changes=None, **more):
    updates = {name: GOOD for name in PARAMETERS}
    for name, changed in (changes or {}).items():
        updates[name] = with_fields(GOOD, **changed)
    layers = more.pop("layers", [Layer(f"blocks.{number}", 5.0, 0.7, 1.0) for number in range(4)])
    return Inner(step, 50, updates, joined(OF, list(updates.values()), [100] * len(OF)), layers, **more)


def raised(*measured):
    detector = Detector(setting())
    return [(alarm.name, alarm.where, alarm.step) for one in measured for alarm in detector.after(one)]


def test_healthy_measurements_raise_nothing():
    assert raised(*(inner(step) for step in range(50, 1000, 50))) == []


def test_a_tensor_that_is_not_moved_is_named_at_once():
    stuck = {"blocks.2.mlp.weight": {"moved": 0.0}}
    assert raised(inner(50), inner(100, stuck), inner(150, stuck)) == [("not-updated", "blocks.2.mlp.weight", 100)]
    still = {"blocks.2.mlp.weight": {"moved": 0.0, "has_gradient": False}}
    assert raised(inner(50, still), inner(100, still)) == []


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"moved": 0.3}, "underflowing-updates"),
        ({"surprise": 2.5}, "stale-second-moment"),
        ({"below_epsilon": 0.4}, "epsilon-too-large"),
    ],
)
def test_what_is_above_its_bound_twice_in_a_row_is_an_alarm(changed, name):
    odd = {"blocks.1.attention.weight": changed}
    found = raised(inner(50), inner(100, odd), inner(150), inner(200, odd), inner(250, odd), inner(300, odd))
    where = "blocks.1.attention" if name == "stale-second-moment" else "blocks.1.attention.weight"
    assert found == [(name, where, 250)]


def test_updates_that_are_too_large_are_named_by_region_once_the_beginning_is_over():
    far = {"embedding.weight": {"change": 0.01}}
    found = raised(*(inner(step, far) for step in (50, 100, 150, 200, 250)))
    assert found == [("learning-rate-too-high", "embedding", 200)]


def test_attention_logits_that_grow_are_named_with_their_block():
    def logits(largest):
        return [Layer("blocks.0", 5.0, 0.7, 1.0), Layer("blocks.1", largest, 0.1, 1.0)]

    found = [inner(50 * (place + 1), layers=logits(value)) for place, value in enumerate([90.0, 150.0, 160.0, 155.0])]
    assert raised(*found) == [("exploding-attention-logits", "blocks.1", 100)]
    detector = Detector(setting())
    detector.after(inner(50, layers=logits(800.0)))
    (alarm,) = detector.after(inner(100, layers=logits(5000.0)))
    assert alarm.severity == "critical"


def test_ranks_that_differ_are_named():
    assert raised(inner(50, diverged=(3, "head.weight"))) == [("rank-divergence", "head.weight", 50)]


def test_an_alarm_comes_again_when_it_was_away_for_some_measurements():
    stuck = {"embedding.weight": {"moved": 0.0}}
    steps = [50, 100, 150 + 50 * QUIET_AFTER, 200 + 50 * QUIET_AFTER]
    found = raised(*(inner(step, stuck) for step in steps))
    assert [step for _, _, step in found] == [50] + ([150 + 50 * QUIET_AFTER] if 50 * QUIET_AFTER < 200 else [])


def test_a_region_joins_its_tensors():
    one = with_fields(GOOD, size=3.0, change=1.0, moved=0.5, below_epsilon=0.4)
    other = with_fields(GOOD, size=4.0, change=2.0, surprise=2.0)
    found = joined(["a", "a"], [one, other], [10, 30])["a"]
    assert found.size == pytest.approx(((9 * 10 + 16 * 30) / 40) ** 0.5)
    assert found.change == pytest.approx(((1 * 10 + 4 * 30) / 40) ** 0.5)
    assert (found.moved, found.below_epsilon) == (0.5, pytest.approx(0.1))
    assert found.surprise == pytest.approx(((1 * 10 + 4 * 30) / 40) ** 0.5)
    assert told_of(inner(50))["update_ratio"]["blocks.0.mlp"] == pytest.approx(1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_checksum_is_another_one_for_any_other_bit(dtype):
    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    other = values.clone()
    other[3, 2] = torch.nextafter(other[3, 2], other[3, 2] + 1)
    assert checksum(values) == checksum(values.clone())
    assert checksum(values) != checksum(other)
    assert checksum(values) == checksum(values.flatten().flip(0))


def test_at_the_end_of_a_decay_nothing_need_move():
    stuck = {"blocks.2.mlp.weight": {"moved": 0.0}}
    decays = with_fields(setting(), optimization=replace(optimization(), schedule=WSD(decay=0.5)))
    detector = Detector(decays)
    assert [alarm.name for alarm in detector.after(inner(1000, stuck))] == []
    assert [alarm.name for alarm in detector.after(inner(900, stuck))] == ["not-updated"]
