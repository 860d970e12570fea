"""`thetahat score` on several ranks: several processes, one number."""

import json

import pytest

from tests.commands import thetahat, thetahat_ranks

SMALL = ["model.width=48", "model.num_layers=2", "model.inner_width=96", "data.context=64", "data.vocab_size=400"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("score")


@pytest.fixture(scope="module")
def run(place):
    train = ["train", *SMALL, "max_steps=3", "batch_size=4", "threads=1", "--out", "run", "-q", "--json"]
    return said(thetahat(place, *train))


def said(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def score(place, *pairs, ranks=1):
    words = ["score", "run", *pairs, "--json"]
    return said(thetahat(place, *words) if ranks == 1 else thetahat_ranks(place, ranks, *words))


@pytest.mark.multi
def test_ranks_and_batch_sizes_give_the_number_in_the_log(run, place):
    alone = score(place)
    assert alone["bits_per_byte"] == run["held_out_bits_per_byte"]
    together = score(place, "evaluation.batch_size=5", ranks=2)
    assert together["log_likelihood"] == pytest.approx(alone["log_likelihood"], rel=1e-9)
    assert together["num_tokens"] == alone["num_tokens"]


@pytest.mark.multi
@pytest.mark.slow
def test_in_deterministic_mode_three_ranks_change_no_bit(run, place):
    alone = score(place, "deterministic=true")
    assert score(place, "deterministic=true", "evaluation.batch_size=7", ranks=3) == alone
