"""Ranks that hold one model together, and checkpoints of many files: the promises of one process hold."""

import random
import shutil
import time

import pytest

from tests.commands import worlds
from tests.faults.conftest import Bed, outcome, verified

pytestmark = pytest.mark.multi

SETS = [["thetahat.run.folder.tensors", "LARGEST", 6000]]  # bytes of a file


def started(bed, *, victim=None, **options):
    """Both ranks; `options` are those of the victim."""
    command = bed.command("mesh.shards=2", "optimization.ema=0.9")
    return [
        bed.start(*command, environment=world, sets=SETS, **(options if rank == victim else {}))
        for rank, world in enumerate(worlds(2))
    ]


def finish(bed):
    ranks = started(bed)
    assert [rank.wait(300) for rank in ranks] == [0, 0], ranks[0].err + ranks[1].err


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """The uninterrupted run."""
    bed = Bed(server, tmp_path_factory.mktemp("whole"))
    began = time.monotonic()
    finish(bed)
    bed.seconds, bed.outcome = time.monotonic() - began, outcome(bed.run)
    names = [name for name in bed.outcome if name.endswith(".safetensors")]
    assert all(sum(name.startswith(kind) for name in names) > 2 for kind in ("model-", "optimizer-", "average-"))
    return bed


@pytest.fixture
def warm(server, whole, tmp_path):
    shutil.copytree(whole.folder / "cache", tmp_path / "cache")
    return Bed(server, tmp_path)


def kill_once(bed, chance, longest):
    """One attempt: at a random time both ranks are killed, or one kills itself within a save. How each rank ended."""
    if chance.random() < 0.5:
        ranks = started(bed)
        codes = [ranks[0].wait(chance.uniform(0, longest)), ranks[1].wait(0)]
    else:
        victim = chance.randrange(2)
        ranks = started(bed, victim=victim, trap=["_save", chance.randrange(4), chance.randrange(100)])
        code = ranks[victim].wait(300)
        other = ranks[1 - victim].wait(chance.choice([0, 0.1, 60]) if code else 60)  # it finds out, or not
        codes = [code, other] if victim == 0 else [other, code]
    return [rank.kill() if code is None else code for rank, code in zip(ranks, codes, strict=True)]


def check_kills(server, folder, whole, seed, num_kills):
    """Until so many attempts were killed, in as many runs as that takes."""
    chance, kills, runs = random.Random(seed), 0, 0
    while kills < num_kills:
        bed = Bed(server, folder / f"{runs}")
        shutil.copytree(whole.folder / "cache", bed.folder / "cache")
        was_saved, of_run = False, 0
        while of_run < min(5, num_kills - kills):
            codes = kill_once(bed, chance, 0.7 * whole.seconds)
            if codes == [0, 0]:
                break
            of_run += -9 in codes
            assert verified(bed.run) or not was_saved
            was_saved = bool(verified(bed.run))
        kills, runs = kills + of_run, runs + 1
        finish(bed)
        assert outcome(bed.run) == whole.outcome
        assert not list((bed.run / "checkpoints").glob(".*partial"))
        shutil.rmtree(bed.folder)
    print(f"{kills} kills in {runs} runs, none divergent")


def test_killed_at_random_and_in_saves_shards_end_in_the_same_bits(server, tmp_path, whole):
    check_kills(server, tmp_path, whole, seed=1, num_kills=4)


@pytest.mark.slow
def test_killed_many_times_shards_end_in_the_same_bits(server, tmp_path, whole):
    check_kills(server, tmp_path, whole, seed=2, num_kills=50)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_disk_that_is_full_for_one_rank_ends_both_and_leaves_no_half_checkpoint(warm, whole, victim):
    ranks = started(warm, victim=victim, limits={"RLIMIT_FSIZE": 15000})  # tables are larger, in files of both ranks
    codes = [rank.wait(120) for rank in ranks]
    assert codes[victim] == 8, ranks[victim].err
    assert codes[1 - victim] == 1, ranks[1 - victim].err
    assert "no space left" in ranks[victim].err
    assert ("the first rank" if victim == 0 else "rank 1") + " stopped" in ranks[1 - victim].err
    assert list((warm.run / "checkpoints").iterdir()) == []
    finish(warm)
    assert outcome(warm.run) == whole.outcome
