"""Two ranks: the same promises, and none is left waiting for one that died."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from scipy.stats import binom

from tests.faults.conftest import Bed, is_saved_as_reported, outcome, verified
from thetahat.run.log.metrics import read_lines

pytestmark = pytest.mark.multi


@pytest.fixture(scope="module")
def pair(server, tmp_path_factory):
    """The uninterrupted run of two ranks."""
    bed = Bed(server, tmp_path_factory.mktemp("pair"))
    bed.finish_ranks(2)
    bed.outcome = outcome(bed.run)
    return bed


def test_two_ranks_killed_end_in_the_same_bits(pair, bed):
    chance, kills = random.Random(3), 0
    while kills < 2:
        ranks = bed.start_ranks(2)
        before = bed.lines()
        bed.until(ranks[0], lambda before=before: bed.lines() > before + 3)
        time.sleep(chance.uniform(0, 0.05))
        kills += sum(rank.kill() == -signal.SIGKILL for rank in ranks) > 0
    bed.finish_ranks(2)
    assert outcome(bed.run) == pair.outcome


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_rank_is_killed_the_others_end_and_the_next_start_goes_on(pair, bed, killed):
    ranks = bed.start_ranks(2)
    assert bed.until(ranks[0], lambda: bed.lines() >= 4), ranks[0].err
    assert ranks[killed].kill() == -signal.SIGKILL
    assert ranks[1 - killed].wait(60) not in {0, None}
    assert verified(bed.run)
    bed.finish_ranks(2)
    assert outcome(bed.run) == pair.outcome


@pytest.mark.parametrize("told", [[0], [1], pytest.param([0, 1], marks=pytest.mark.slow)])
def test_a_signal_to_any_rank_saves_and_ends_all(pair, bed, told):
    ranks = bed.start_ranks(2)
    assert bed.until(ranks[0], lambda: bed.lines() >= 4), ranks[0].err
    for rank in told:
        ranks[rank].send(signal.SIGTERM)
    assert [rank.wait(30) for rank in ranks] == [143, 143], ranks[0].err + ranks[1].err
    assert is_saved_as_reported(bed.run)
    bed.finish_ranks(2)
    assert outcome(bed.run) == pair.outcome


STILL = ("model.dropout=0.0",)


@pytest.mark.parametrize("sizes", [(2, 1), pytest.param((1, 2), marks=pytest.mark.slow)])
def test_another_number_of_ranks_sees_the_same_sequences(server, tmp_path, sizes):
    """Up to the order in which floats are added, so without dropout, which each rank draws for itself."""
    beds = {}
    for name, size in (("whole", sizes[0]), ("changed", sizes[0])):
        bed = beds[name] = Bed(server, tmp_path / name)
        if name == "whole":
            bed.finish_ranks(size, *bed.command(*STILL))
            continue
        ranks = bed.start_ranks(size, *bed.command(*STILL))
        assert bed.until(ranks[0], lambda bed=bed: bed.lines() >= 7), ranks[0].err
        for rank in ranks:
            rank.kill()
        bed.finish_ranks(sizes[1], *bed.command(*STILL))
    lines = [outcome(beds[name].run)["lines"] for name in ("whole", "changed")]
    whole, changed = ([line for line in some if "batch" in line] for some in lines)  # the others are evaluations
    assert [line["batch"] for line in whole] == [line["batch"] for line in changed]
    assert [line["tokens"] for line in whole] == [line["tokens"] for line in changed]
    for ours, theirs in zip(whole, changed, strict=True):
        assert ours["log_likelihood_per_token"] == pytest.approx(theirs["log_likelihood_per_token"], rel=1e-4)


MIXED = {"a": 3.0, "b": 1.0}  # weights


@pytest.mark.parametrize("num_steps", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_mixture_on_two_ranks_killed_in_the_middle_reads_what_one_rank_reads(bed, num_steps):
    text = (bed.folder / "data.jsonl").read_text()
    for name in MIXED:
        (bed.folder / f"{name}.jsonl").write_text(text if name == "a" else text.replace("the", "this"))
    sources = [f"data.sources.{name}.path={name}.jsonl" for name in MIXED]
    sources += [f"data.sources.{name}.weight={weight}" for name, weight in MIXED.items()]
    own = ["data.held_out=none", "data.sources.b.held_out=held.jsonl", "data.train=", "ledger.every=0"]
    times = [
        "micro_batch_size=3",
        f"max_steps={num_steps}",
        f"evaluation.every={num_steps // 2}",
        f"checkpoint.every={num_steps // 4}",
    ]
    alone, command = (bed.command(*STILL, *sources, *own, *times, run=run) for run in ("alone", "run"))
    assert bed.start(*alone).wait(600) == 0
    ranks = bed.start_ranks(2, *command)
    assert bed.until(ranks[0], lambda: bed.lines() >= num_steps // 2, 600), ranks[0].err
    for rank in ranks:
        rank.kill()
    ended = bed.start_ranks(2, *command)
    assert [rank.wait(600) for rank in ended] == [0, 0], ended[0].err
    one, two = (list(read_lines(bed.folder / run / "metrics.jsonl")) for run in ("alone", "run"))
    for name in ("step", "tokens", "batch", "sources"):
        assert [line.get(name) for line in one] == [line.get(name) for line in two]
    assert [line["step"] for line in two if "held_out_sources" in line] == [num_steps // 2, num_steps]
    read, held_out = two[-2]["sources"], two[-1]["held_out_sources"]["b"]
    assert sum(source["rows"] for source in read.values()) == 3 * num_steps
    for name, weight in MIXED.items():
        low, high = binom.interval(0.95, 3 * num_steps, weight / sum(MIXED.values()))
        assert low <= read[name]["rows"] <= high
    assert json.loads(ended[0].out)["sources"] == read | {"b": read["b"] | {"held_out_value": held_out}}
    share = f"{read['a']['rows'] / 3 / num_steps:.1%} of the rows"
    assert f"  a: {read['a']['epochs']:.2f} epochs, {share}\n" in ended[0].err


def test_a_folder_that_is_held_is_refused_by_every_rank(pair, warm):
    holder = warm.start()
    assert warm.until(holder, lambda: warm.lines() > 2)
    os.kill(holder.pid, signal.SIGSTOP)
    attempts = warm.finish_ranks(2, codes=(7, 1))
    assert f"(pid {holder.pid})" in attempts[0].err
    assert "bug" not in attempts[0].err + attempts[1].err
    holder.kill()


def test_fresh_is_one_new_folder_for_all_ranks(pair, bed):
    for number in (1, 2, 3):
        bed.finish_ranks(2, *bed.command("--fresh", "max_steps=2"))
        names = sorted(path.name for path in bed.folder.glob("run*"))
        assert names == ["run", "run-2", "run-3"][:number]


def test_a_step_that_is_not_finite_ends_every_rank(bed):
    huge = ["optimization.embeddings.learning_rate=1e38", "optimization.schedule.warmup_steps=0"]
    attempts = bed.finish_ranks(2, *bed.command(*huge), codes=(5,))
    assert all("step 2: " in attempt.err for attempt in attempts)


def test_a_full_disk_ends_every_rank(bed, pair):
    world = bed.start_ranks(2)
    assert bed.until(world[0], lambda: bed.lines() >= 4)
    for rank in world:
        rank.kill()
    size = (pair.run / "checkpoints" / "step-00000024" / "optimizer.safetensors").stat().st_size
    start, bed.start = bed.start, None
    bed.start = lambda *words, **options: start(*words, limits={"RLIMIT_FSIZE": size - 1}, **options)
    attempts = bed.finish_ranks(2, codes=(8, 1))
    assert "no space left" in attempts[1].err  # which writes the second file
    assert "rank 1 stopped" in attempts[0].err
    assert not any("bug" in attempt.err for attempt in attempts)
    bed.start = start
    bed.finish_ranks(2)
    assert outcome(bed.run) == pair.outcome


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to_all", [False, True])
def test_under_torchrun_a_signal_saves(pair, bed, number, to_all):
    """To the launcher, which passes it on, or as a terminal sends it: to all of them at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    words = [*launcher, f"--master-port={port}", "-m", "thetahat", *bed.command()]
    environment = os.environ | {"THETAHAT_CACHE": str(bed.folder / "cache"), "OMP_NUM_THREADS": "1"}
    options = {"cwd": bed.folder, "env": environment, "start_new_session": True, "text": True}
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, **options) as run:
        end = time.monotonic() + 90
        while bed.lines() < 3 and time.monotonic() < end:
            time.sleep(0.01)
        (os.killpg if to_all else os.kill)(run.pid, number)
        err = run.communicate(timeout=60)[1]
    step = int(re.search(r"stopped after step (\d+)", err)[1])
    assert verified(bed.run)[-1] == f"step-{step:08d}", err
    assert is_saved_as_reported(bed.run)
    bed.finish_ranks(2)
    assert outcome(bed.run) == pair.outcome
