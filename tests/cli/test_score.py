"""`thetahat score` under torchrun: several processes, one number."""

import json
import os
import subprocess
import sys

import pytest

SMALL = ["model.width=48", "model.num_layers=2", "model.inner_width=96", "data.context=64", "data.vocab_size=400"]
ALONE = [sys.executable, "-m", "thetahat"]


def ranks(count):
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={count}",
        "-m",
        "thetahat",
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("score")


def say(command, place):
    environment = os.environ | {"THETAHAT_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(place):
    train = ["train", *SMALL, "max_steps=3", "batch_size=4", "threads=1", "--out", "run", "-q", "--json"]
    return json.loads(say([*ALONE, *train], place).splitlines()[-1])


def score(how, place, *pairs):
    return json.loads(say([*how, "score", "run", *pairs, "--json"], place).splitlines()[-1])


@pytest.mark.multi
def test_ranks_and_batch_sizes_give_the_number_in_the_log(run, place):
    alone = score(ALONE, place)
    assert alone["bits_per_byte"] == run["held_out_bits_per_byte"]
    together = score(ranks(2), place, "evaluation.batch_size=5")
    assert together["log_likelihood"] == pytest.approx(alone["log_likelihood"], rel=1e-9)
    assert together["num_tokens"] == alone["num_tokens"]


@pytest.mark.multi
@pytest.mark.slow
def test_in_deterministic_mode_three_ranks_change_no_bit(run, place):
    alone = score(ALONE, place, "deterministic=true")
    assert score(ranks(3), place, "deterministic=true", "evaluation.batch_size=7") == alone
