"""Promise 2: kill it at any time, start the same command again, get the same bits."""

import itertools
import os
import random
import shutil
import signal
import threading
import time

import pytest

from tests.faults.conftest import Bed, kept, outcome, verified

SAVES = [0, *range(3, 25, 3)]  # the steps that an uninterrupted run saves


def killed_until_done(bed, chance, longest, most_kills):
    """Starts the same command until it ends by itself, killing it after a random time; gives the number of kills."""
    was_saved = False
    for kills in itertools.count():
        attempt = bed.start()
        code = attempt.wait(chance.uniform(0, longest) if kills < most_kills else 120)
        if code is None:
            code = attempt.kill()
        if code != -signal.SIGKILL:
            assert code == 0, attempt.err
            return kills
        assert "bug" not in attempt.err
        assert verified(bed.run) or not was_saved
        was_saved = bool(verified(bed.run))


def check_random_kills(server, folder, oracle, seed, num_kills):
    """Until `num_kills` have hit a living process, in as many runs as that takes."""
    chance, kills, runs = random.Random(seed), 0, 0
    longest = 1.2 * oracle.seconds
    while kills < num_kills:
        bed = Bed(server, folder / f"{runs}")
        kills += killed_until_done(bed, chance, longest, min(6, num_kills - kills))
        assert (outcome(bed.run), kept(bed.run)) == (oracle.outcome, oracle.kept)
        shutil.rmtree(bed.folder)
        runs += 1
    print(f"{kills} kills in {runs} runs, none divergent")


def test_killed_at_random_a_run_ends_in_the_same_bits(server, tmp_path, oracle):
    check_random_kills(server, tmp_path, oracle, seed=1, num_kills=6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_many_times_a_run_ends_in_the_same_bits(server, tmp_path, oracle, seed):
    check_random_kills(server, tmp_path, oracle, seed=100 + seed, num_kills=20)


class Chain:
    """Kills before given operations of a save, one start after another: most of them leave the run where it was.

    When a run is through its last step it is compared, and the next one begins.
    """

    def __init__(self, server, folder, oracle):
        self.server, self.folder, self.oracle = server, folder, oracle
        self.num_runs, self.bed = 0, None
        self.begin()

    def begin(self):
        if self.bed:
            self.bed.finish()
            assert (outcome(self.bed.run), kept(self.bed.run)) == (self.oracle.outcome, self.oracle.kept)
            shutil.rmtree(self.bed.folder)
        self.num_runs += 1
        self.bed = Bed(self.server, self.folder / f"{self.num_runs}")
        shutil.copytree(self.oracle.folder / "cache", self.bed.folder / "cache")

    def kill_in(self, function, operation, call=0):
        """Whether there was such an operation."""
        attempt = self.bed.start(trap=[function, call, operation])
        code = attempt.wait()
        assert code in (0, -signal.SIGKILL), attempt.err
        assert self.bed.lines() == 0 or verified(self.bed.run)
        return code != 0

    def kill_in_save(self, operation):
        """In the first save of the loop; call 0 of a new run saves step 0."""
        is_new = not verified(self.bed.run)
        if self.kill_in("_save", operation, call=1 if is_new else 0):
            return True
        self.begin()
        return not is_new and self.kill_in_save(operation)


@pytest.fixture
def chain(server, tmp_path, oracle):
    chain = Chain(server, tmp_path, oracle)
    yield chain
    chain.begin()


def test_killed_within_a_save_a_run_ends_in_the_same_bits(chain):
    assert all(chain.kill_in_save(operation) for operation in (0, 40, 80, 120, 135, 150, 165))


@pytest.mark.slow
def test_killed_before_every_operation_of_a_save_a_run_ends_in_the_same_bits(chain):
    num_operations = next(operation for operation in itertools.count() if not chain.kill_in_save(operation))
    print(f"{num_operations} operations of a save, {chain.num_runs} runs")
    assert num_operations > 100


def test_killed_while_it_resumes_a_run_ends_in_the_same_bits(chain):
    """A kill within a save leaves something to clean up; the next ones die while they do."""
    assert chain.kill_in_save(60)
    assert all(chain.kill_in("start_or_resume", operation) for operation in (0, 15, 40))


@pytest.mark.slow
def test_killed_before_every_third_operation_of_a_resume_a_run_ends_in_the_same_bits(chain):
    for num_operations in itertools.count(0, 3):
        assert chain.kill_in_save(num_operations % 100)
        if not chain.kill_in("start_or_resume", num_operations):
            break
    print(f"killed at every third of {num_operations} operations of a resume, {chain.num_runs} runs")
    assert num_operations > 300


def test_at_every_moment_there_is_a_whole_checkpoint(warm, oracle):
    """Looked at from outside, as fast as one can, while the run saves and deletes."""
    looks, end = [], threading.Event()

    def look():
        while not end.is_set():
            had = (warm.run / "metrics.jsonl").exists() and warm.lines() > 0
            if had:
                looks.append(bool(verified(warm.run)))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        warm.finish()
    finally:
        end.set()
        watcher.join()
    assert len(looks) > 5
    assert all(looks)


def test_kills_close_to_saves_lose_at_most_what_came_after_the_last(warm, oracle):
    """As soon as a checkpoint appears, or a few milliseconds later, the run is killed; so it advances each time."""
    chance = random.Random(2)
    for step in SAVES[1:-1:2]:
        attempt = warm.start()
        assert warm.until(attempt, (warm.run / "checkpoints" / f"step-{step:08d}").exists), attempt.err
        time.sleep(chance.uniform(0, 0.01))
        attempt.kill()
        assert f"step-{step:08d}" in verified(warm.run)
    warm.finish()
    assert outcome(warm.run) == oracle.outcome


def test_a_folder_is_refused_while_another_process_holds_it_and_free_when_that_is_killed(warm, oracle):
    holder = warm.start()
    assert warm.until(holder, lambda: warm.lines() > 2)
    os.kill(holder.pid, signal.SIGSTOP)
    second = warm.finish(code=7)
    assert f"(pid {holder.pid})" in second.err
    holder.kill()
    warm.finish()
    assert outcome(warm.run) == oracle.outcome
