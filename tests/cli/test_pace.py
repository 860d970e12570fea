"""A machine slower than the README's says so, in time, with what to type."""

import re
from pathlib import Path

import pytest

from thetahat.cli import pace as module
from thetahat.cli.pace import README_SECONDS, Pace
from thetahat.core.config import override
from thetahat.recipes.catalogue import find_recipe


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def said(config, clock, *phases):
    """What is said, and after how many seconds, where so many steps take so long each."""
    pace, start, found = Pace(config), clock[0], []
    pace(0.0)
    for steps, seconds in phases:
        for _ in range(steps):
            clock[0] += seconds
            found += [(clock[0] - start, line)] if (line := pace(0.0)) else []
    return found


def test_the_time_is_that_of_the_readme():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert re.search(rf"\b{README_SECONDS}\s+seconds of training", readme)


def test_a_slow_machine_is_told_in_the_first_seconds_and_again_if_it_becomes_slower(clock):
    config = find_recipe("quickstart")
    (first,) = said(config, clock, (100, 0.9))
    assert first[0] < 7
    assert "about 7 min 5 s, not 2 min 11 s; --max-steps 130 (130 steps instead of 450)" in first[1]
    both = said(config, clock, (50, 0.9), (50, 1.0), (20, 2.0))
    assert [seconds > 90 for seconds, _ in both] == [False, True]
    assert "about 13 min 8 s" in both[1][1]


def test_a_machine_like_the_readme_s_and_another_run_are_told_nothing(clock):
    config = find_recipe("quickstart")
    assert said(config, clock, (100, 0.27)) == []
    assert said(override(config, ["model.num_layers=2"]), clock, (50, 2.0)) == []
    assert said(override(config, ["seed=4", "max_steps=900"]), clock, (50, 0.9))


def test_an_evaluation_is_no_part_of_the_rate(clock):
    pace = Pace(find_recipe("quickstart"))
    pace(0.0)
    for _ in range(100):
        clock[0] += 0.27 + 30.0
        assert pace(30.0) == ""
