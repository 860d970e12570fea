"""A slice of the failure zoo: what is put into a run is found, a healthy run says nothing. All: benchmarks/zoo."""

import pytest
import torch

from benchmarks.zoo.count import alarmed, brief, judged, once, table
from benchmarks.zoo.failures import FAILURES

BY_NUMBER = {one.number: one for one in FAILURES}


@pytest.fixture(autouse=True)
def _kept_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path))
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("number", ["F8", "F12", "F14", "F15", "F27"])
def test_a_failure_is_found_within_one_step_and_named(number):
    failure = BY_NUMBER[number]
    found = once(number, 1, None)
    assert "crash" not in found
    judgement = judged(failure, found)
    assert judgement["found"]
    assert judgement["delay"] <= 2
    assert f"| {number} | {failure.what} | 1/1 |" in table([brief(found)])


def test_a_healthy_run_says_nothing():
    assert alarmed([once("healthy", 143, None)]) == []  # one of the shortest


@pytest.mark.slow
@pytest.mark.parametrize("number", [one.number for one in FAILURES])
def test_every_failure_is_found(number):
    assert judged(BY_NUMBER[number], once(number, 2, None))["found"]
