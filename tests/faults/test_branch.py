"""A run that changes, from the command line: branched, killed, on two ranks, gone on with, moved."""

import json
import random
import re
import shlex
import shutil
import signal

import pytest

from tests.faults.conftest import Bed, outcome
from thetahat.core import store

BRANCH = ["train", "--branch", "first@6", "max_steps=16", "checkpoint.every=2", "--json"]


@pytest.fixture(scope="module")
def parent(server, tmp_path_factory):
    """A run of 12 steps."""
    bed = Bed(server, tmp_path_factory.mktemp("parent"))
    bed.finish(*bed.command("max_steps=12", "checkpoint.keep=9", run="first"))
    return bed


@pytest.fixture
def bed(server, parent, tmp_path):
    shutil.copytree(parent.folder, tmp_path / "bed")
    return Bed(server, tmp_path / "bed")


def ended(run, last):
    """The bits at the last step, and every line but for its clock."""
    folder = run / "checkpoints" / f"step-{last:08d}"
    store.verify(folder)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in line.items() if "second" not in name} for line in lines]
    return kept, [store.digest_file(folder / name) for name in ("model.safetensors", "optimizer.safetensors")]


def test_a_branch_that_is_killed_at_random_ends_in_the_same_bits(bed):
    bed.finish(*BRANCH, "--out", "whole")
    chance, kills = random.Random(3), 0
    for _ in range(5):
        attempt = bed.start(*BRANCH, "--out", "broken")
        if attempt.wait(chance.uniform(0, 1.2)) is None:
            kills += attempt.kill() == -signal.SIGKILL
    attempt = bed.start(*BRANCH, "--out", "broken")
    assert bed.until(attempt, (bed.folder / "broken" / "checkpoints" / "latest").exists), attempt.err
    attempt.kill()
    shutil.rmtree(bed.folder / "first")  # it has begun, so its parent is not needed any more
    bed.finish(*BRANCH, "--out", "broken")
    assert ended(bed.folder / "broken", 16) == ended(bed.folder / "whole", 16)
    assert kills


@pytest.mark.multi
def test_a_branch_on_two_ranks_reads_the_same_sequences(bed):
    bed.finish(*BRANCH, "--out", "one")
    bed.finish_ranks(2, *BRANCH, "--out", "two")
    ours, theirs = (ended(bed.folder / name, 16)[0] for name in ("two", "one"))
    assert [line.get("batch") for line in ours] == [line.get("batch") for line in theirs]
    assert [line["step"] for line in ours if "batch" in line] == list(range(7, 17))


def test_a_run_folder_alone_goes_on_and_its_refusal_names_the_branch_that_works(warm, oracle):
    warm.finish(*warm.command("--max-minutes", "0"))
    warm.finish("train", "run", "--max-minutes", "0", "checkpoint.keep=3")
    refused = warm.finish("train", "run", "max_steps=6", "optimization.schedule.kind=constant", code=7)
    assert "run belongs to another config" in refused.err
    typed = re.search(r"thetahat (train --branch run .*) to go on so", refused.err)
    named = shlex.split(typed[1])
    assert named == ["train", "--branch", "run", "optimization.schedule.kind=constant", *named[4:-1], "max_steps=6"]
    warm.finish(*named, "--out", "branched")
    assert [line["step"] for line in ended(warm.folder / "branched", 6)[0] if "batch" in line] == [3, 4, 5, 6]
    warm.finish("train", "run", "checkpoint.keep=2")
    assert outcome(warm.run) == oracle.outcome
    done = warm.finish("train", "run", "--json")
    assert json.loads(done.out)["finished_before"]


def test_a_run_folder_with_out_or_base_starts_another_from_its_model(bed):
    for words in (["first", "--out", "tuned"], ["first", "base=first", "--out", "again"]):
        bed.finish(
            "train", *words, "data.train=data.jsonl", "data.held_out=held.jsonl", "data.context=32", "max_steps=1"
        )
        assert 'base = "first"' in (bed.folder / words[-1] / "config.toml").read_text()


def test_the_same_command_goes_on_whatever_became_of_the_parent(bed):
    command = ["train", "--branch", "first", "max_steps=15", "--out", "ours"]
    bed.finish(*command, "--max-minutes", "0")
    shutil.rmtree(bed.folder / "first" / "checkpoints" / "step-00000012")
    bed.finish(*command)
    ended(bed.folder / "ours", 15)
    other = bed.finish("train", "--branch", "first@6", "max_steps=15", "--out", "ours", code=7)
    assert "parent.step: 12 -> 6" in other.err
    gone = bed.finish("train", "--branch", "first@12", "max_steps=15", code=4)
    assert "first@12: there is no such checkpoint" in gone.err
    named = bed.finish("train", "tiny.toml", "--branch", "first", code=2)
    assert "tiny.toml names another" in named.err


def test_the_tree_of_runs_is_moved_and_renamed(bed):
    runs = bed.folder / "runs"
    runs.mkdir()
    (bed.folder / "first").rename(runs / "first")
    data = ["data.train=data.jsonl", "data.held_out=held.jsonl", "data.context=32", "batch_size=3"]
    adapted = ["train", "base=runs/first", "recipe=lora", "adapter.rank=2", *data, "--out", "runs/lora", "threads=1"]
    bed.finish(*adapted, "max_steps=4", "device=cpu")
    bed.finish("train", "--branch", "runs/first@6", "max_steps=8", "--out", "runs/branched", "--max-minutes", "0")
    before = json.loads(bed.finish("score", "runs/lora", "held.jsonl", "--json").out.splitlines()[-1])
    (bed.folder / "elsewhere").mkdir()
    moved = runs.rename(bed.folder / "elsewhere" / "archive")
    (moved / "first").rename(moved / "oldest")
    (moved / "lora").rename(moved / "adapted")
    here = "elsewhere/archive"
    after = json.loads(bed.finish("score", f"{here}/adapted", "held.jsonl", "--json").out.splitlines()[-1])
    assert after["log_likelihood"] == before["log_likelihood"]
    bed.finish("train", f"{here}/branched")
    bed.finish("train", "--branch", f"{here}/adapted", "max_steps=6", "--out", f"{here}/longer")
    bed.finish("train", f"{here}/adapted")
    bed.finish("train", f"{here}/branched/config.toml", "--out", f"{here}/repeated")
    assert ended(moved / "repeated", 8) == ended(moved / "branched", 8)
    listed = json.loads(bed.finish("runs", here, "--json").out)["runs"]
    told = {run["run"].rpartition("/")[2]: (run["state"], run["step"], run["parent"]) for run in listed}
    assert told == {
        "oldest": ("finished", 12, None),
        "adapted": ("finished", 4, None),
        "branched": ("finished", 8, f"{here}/oldest@6"),
        "repeated": ("finished", 8, f"{here}/oldest@6"),
        "longer": ("finished", 6, f"{here}/adapted@4"),
    }
    shutil.rmtree(moved / "oldest")
    lost = bed.finish("score", f"{here}/adapted", "held.jsonl", code=4)
    assert "base=runs/first is gone" in lost.err


def test_runs_are_listed_with_what_they_are(bed):
    going = bed.start(*bed.command(run="going"))
    assert bed.until(going, lambda: bed.lines(bed.folder / "going") > 2)
    going.send(signal.SIGSTOP)
    bed.finish("train", "tiny.toml", "--out", "paused", "--max-minutes", "0")
    shutil.copytree(bed.folder / "paused", bed.folder / "damaged")
    (bed.folder / "damaged" / "checkpoints" / "step-00000001" / "model.safetensors").write_bytes(b"")
    (bed.folder / "waiting" / "checkpoints").mkdir(parents=True)
    (bed.folder / "waiting" / "config.toml").write_text("")
    found = {run["run"]: run for run in json.loads(bed.finish("runs", ".", "--json").out)["runs"]}
    going.kill()
    states = {name: (run["state"], run["step"]) for name, run in found.items() if name != "going"}
    assert states == {
        "first": ("finished", 12),
        "paused": ("paused", 1),
        "damaged": ("damaged", 1),
        "waiting": ("not begun", 0),
    }
    assert found["going"]["state"] == "running"
    assert found["going"]["step"] >= 2
    lines = [json.loads(line) for line in (bed.folder / "first" / "metrics.jsonl").read_text().splitlines()]
    bits = [line["held_out_bits_per_byte"] for line in lines if "held_out_bits_per_byte" in line]
    assert (found["first"]["held_out"], found["first"]["unit"]) == (bits[-1], "bits/byte")
    assert found["first"]["best"] == min(bits)
    sizes = sum(path.lstat().st_size for path in (bed.folder / "first").rglob("*") if path.is_file())
    assert found["first"]["num_bytes"] == sizes
    shown = bed.finish("runs", ".")
    names = re.split(r"\s{2,}", shown.out.splitlines()[0])
    assert names == [
        "run",
        "state",
        "step",
        "of",
        "bits/byte",
        "nats/label",
        "best",
        "at step",
        "from",
        "trained",
        "MB",
    ]
    assert "model.safetensors has 0 bytes" in shown.err
    assert "Next: thetahat train paused" in shown.err or "Next: thetahat train going" in shown.err
