import itertools
import math

import pytest
from hypothesis import given, strategies as st

from thetahat.optimization.config import WSD, Constant, Cosine
from thetahat.optimization.schedule import learning_rate_factor

fractions = st.floats(0, 1)
warmups = st.integers(0, 50)
schedules = (
    st.builds(Constant, warmup_steps=warmups)
    | st.builds(Cosine, warmup_steps=warmups, final=fractions)
    | st.builds(WSD, warmup_steps=warmups, decay=st.floats(0.01, 1), final=fractions)
)


def factors(schedule, num_steps):
    return [learning_rate_factor(schedule, step, num_steps) for step in range(num_steps + 1)]


@given(schedules, st.integers(1, 200))
def test_a_factor_lies_between_0_and_1_and_no_update_is_made_at_0(schedule, num_steps):
    found = factors(schedule, num_steps)
    assert all(0 <= factor <= 1 for factor in found)
    assert all(factor > 0 for factor in found[:-1])


@given(schedules, st.integers(1, 200))
def test_a_factor_falls_from_the_end_of_the_warmup_on(schedule, num_steps):
    found = factors(schedule, num_steps)[max(schedule.warmup_steps - 1, 0) :]
    assert all(later <= earlier for earlier, later in itertools.pairwise(found))


@given(schedules, st.integers(1, 200), st.integers(0, 100))
def test_beyond_the_end_a_factor_stays_at_its_last_value(schedule, num_steps, beyond):
    if schedule.warmup_steps <= num_steps:
        end = learning_rate_factor(schedule, num_steps, num_steps)
        assert learning_rate_factor(schedule, num_steps + beyond, num_steps) == end


def test_the_first_update_of_a_warmup_moves_and_its_last_is_at_the_peak():
    found = factors(Constant(warmup_steps=4), 10)
    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("schedule", [Constant(), Cosine(), WSD(decay=0.5)])
def test_without_a_warmup_the_first_update_is_at_the_peak(schedule):
    assert learning_rate_factor(schedule, 0, 100) == 1.0


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_a_decay_ends_at_its_final_value(final):
    assert learning_rate_factor(Cosine(warmup_steps=10, final=final), 100, 100) == pytest.approx(final, abs=1e-15)
    assert learning_rate_factor(WSD(warmup_steps=10, decay=0.3, final=final), 100, 100) == pytest.approx(final)


def test_a_cosine_is_half_a_cosine_over_what_the_warmup_leaves():
    found = factors(Cosine(warmup_steps=20, final=0.1), 120)
    assert found[20] == 1.0
    assert found[70] == pytest.approx(0.55)
    assert found[45] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)


def test_wsd_is_level_then_linear():
    found = factors(WSD(warmup_steps=2, decay=0.4, final=0.2), 10)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_a_run_shorter_than_its_warmup_only_warms_up():
    assert factors(Cosine(warmup_steps=100), 3) == [0.01, 0.02, 0.03, 0.04]
