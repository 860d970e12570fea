"""The order in which stages of a pipeline read ends, for any numbers, and keeps few micro-batches."""

import pytest
from hypothesis import given, strategies as st

from thetahat.distribution.pipeline.schedule import Pass, one_forward_one_backward


def program(num_batches, stage, num_stages, num_turns):
    """What a stage does, in its order: passes, and whether they are backwards."""
    schedule = one_forward_one_backward(num_batches, stage, num_stages, num_turns)
    backwards = [(one, True) for one in schedule.backwards]
    order = []
    for number, one in enumerate(schedule.forwards):
        order.append((one, False))
        if number >= schedule.num_ahead:
            order.append(backwards.pop(0))
    return order + backwards


def simulated(num_batches, num_stages, num_turns, programs):
    """The most passes that each stage has under way; None where all wait for each other."""
    done, place = set(), [0] * num_stages
    under_way, most = [0] * num_stages, [0] * num_stages
    last = num_stages * num_turns - 1
    moves = True
    while moves:
        moves = False
        for stage, order in enumerate(programs):
            while place[stage] < len(order):
                (batch, turn), is_back = order[place[stage]]
                group = turn * num_stages + stage
                needed = {(batch, group - 1, False)} if group else set()
                if is_back:
                    needed = {(batch, group, False)} | ({(batch, group + 1, True)} if group < last else set())
                if not needed <= done:
                    break
                done.add((batch, group, is_back))
                place[stage], moves = place[stage] + 1, True
                under_way[stage] += -1 if is_back else 1
                most[stage] = max(most[stage], under_way[stage])
    return most if len(done) == 2 * num_batches * num_stages * num_turns else None


@given(st.integers(0, 40), st.integers(2, 8), st.integers(1, 5))
def test_no_stage_waits_for_ever(num_batches, num_stages, num_turns):
    programs = [program(num_batches, stage, num_stages, num_turns) for stage in range(num_stages)]
    assert simulated(num_batches, num_stages, num_turns, programs) is not None
    for order in programs:
        for is_back in (False, True):
            passes = [one for one, back in order if back == is_back]
            expected = [Pass(batch, turn) for batch in range(num_batches) for turn in range(num_turns)]
            assert sorted(passes) == expected


@given(st.integers(8, 40), st.integers(2, 8))
def test_a_stage_keeps_as_many_micro_batches_as_there_are_stages_from_it_on(num_batches, num_stages):
    programs = [program(num_batches, stage, num_stages, 1) for stage in range(num_stages)]
    assert simulated(num_batches, num_stages, 1, programs) == [num_stages - stage for stage in range(num_stages)]


def test_a_stage_that_goes_back_too_early_waits_for_ever():
    programs = [program(4, stage, 2, 2) for stage in range(2)]
    first = programs[0]
    place = next(place for place, (_, is_back) in enumerate(first) if is_back)
    first.insert(1, first.pop(place))
    assert simulated(4, 2, 2, programs) is None


@pytest.mark.parametrize("num_turns", [1, 2])
def test_what_is_sent_first_is_wanted_first(num_turns):
    """All stages have one order, and behind the last stage the next group of layers of the first one follows."""
    orders = [one_forward_one_backward(7, stage, 3, num_turns) for stage in range(3)]
    assert all(order.forwards == orders[0].forwards and order.backwards == orders[0].backwards for order in orders)
    for passes, step in ((orders[0].forwards, 1), (orders[0].backwards, -1)):
        around = [Pass(batch, turn + step) for batch, turn in passes if 0 <= turn + step < num_turns]
        assert around == [one for one in passes if 0 <= one.turn - step < num_turns]
