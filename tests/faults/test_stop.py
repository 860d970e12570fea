"""Signals, limits and pauses: whatever ends a run, the same command goes on to the same bits."""

import json
import os
import re
import shutil
import signal
import time

import pytest

from tests.faults.conftest import is_saved_as_reported, num_lines, outcome, verified

SIGNALS = (signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def stopped(bed, number, holds, *, seconds=20.0):
    """Sends a signal as soon as something holds; gives the attempt and how long the end took."""
    attempt = bed.start()
    assert bed.until(attempt, holds), attempt.err
    attempt.send(number)
    sent = time.monotonic()
    code = attempt.wait(seconds)
    took = time.monotonic() - sent
    assert code == CODES[number], attempt.err
    return attempt, took


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_within_the_loop_saves_and_the_next_start_goes_on(warm, oracle, number):
    attempt, _ = stopped(warm, number, lambda: warm.lines() >= 5)
    step = int(re.search(r"stopped after step (\d+)", attempt.err)[1])
    assert verified(warm.run)[-1] == f"step-{step:08d}"
    assert is_saved_as_reported(warm.run)
    assert "start the same command again" in attempt.err
    warm.finish()
    assert outcome(warm.run) == oracle.outcome


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_at_start_up_ends_the_process(bed, oracle, number):
    """While everything is imported, while the tokenizer is trained, or just before the loop."""
    for moment in (None, bed.folder / "cache", bed.run / "tokenizer.json"):
        shutil.rmtree(bed.run, ignore_errors=True)
        shutil.rmtree(bed.folder / "cache", ignore_errors=True)
        attempt = bed.start()
        assert bed.until(attempt, lambda attempt=attempt, moment=moment: (moment or attempt._err).exists()), attempt.err
        attempt.send(number)
        assert attempt.wait(20) in {CODES[number], -number}, attempt.err
        assert "bug" not in attempt.err
    bed.finish()
    assert outcome(bed.run) == oracle.outcome


def test_signals_again_and_again_change_no_bit(warm, oracle):
    """Wherever they land: in a step, an evaluation or a save."""
    num_stops = 0
    while warm.lines() < 12:
        before = warm.lines()
        stopped(warm, SIGNALS[num_stops % 2], lambda before=before: warm.lines() > before + 2)
        num_stops += 1
    warm.finish()
    assert outcome(warm.run) == oracle.outcome
    assert num_stops >= 3


def test_a_signal_during_an_evaluation_does_not_wait_for_its_end(bed):
    """The evaluation of a long text is broken off, the step is saved, and the evaluation is made up for."""
    slow = ["evaluation.stride=1", "evaluation.batch_size=1", "max_steps=5"]
    line = json.loads((bed.folder / "held.jsonl").read_text().splitlines()[0])
    long = json.dumps(line | {"text": " ".join([line["text"]] * 60)})
    (bed.folder / "held.jsonl").write_text(long + "\n")
    bed.command = lambda *more: ["train", "tiny.toml", *slow, "--out", "run", "--json", *more]
    bed.finish()
    whole = outcome(bed.run)
    shutil.rmtree(bed.run)
    attempt, _ = stopped(bed, signal.SIGTERM, lambda: bed.lines() == 4)
    assert "stopped after step 4" in attempt.err, "the signal came too late to meet the evaluation of step 4"
    assert bed.lines() == 4
    assert b"held_out" not in (bed.run / "metrics.jsonl").read_bytes()
    before = contents(bed.run / "checkpoints" / "step-00000004")
    attempt, _ = stopped(bed, signal.SIGINT, lambda: is_going_on(bed) and not time.sleep(0.1))
    assert "stopped after step 4" in attempt.err, "the signal came too late to meet the evaluation that is made up for"
    assert contents(bed.run / "checkpoints" / "step-00000004") == before
    bed.finish()
    assert outcome(bed.run) == whole


def is_going_on(bed):
    """Whether the newest attempt has read its checkpoint."""
    path = bed.folder / f"{bed.attempts}.err"
    return path.exists() and "going on from" in path.read_text()


def test_a_second_signal_ends_at_once(warm, oracle):
    """Two within a second are one wish, which terminal and launcher both pass on; a later one does not wait."""
    attempt = warm.start()
    assert warm.until(attempt, lambda: warm.lines() >= 3)
    os.kill(attempt.pid, signal.SIGSTOP)
    attempt.send(signal.SIGTERM)
    attempt.send(signal.SIGCONT)
    attempt.send(signal.SIGTERM)
    assert attempt.wait(20) == 143
    assert "stopped after step" in attempt.err
    before, last = warm.lines(), (warm.run / "metrics.jsonl").read_text().splitlines()[-1]
    is_made_up_for = before % 4 == 0 and "held_out" not in last  # an evaluation, by the next start's first turn
    attempt = warm.start(trap=["_agree", 2, 0, "hang"])
    assert warm.until(attempt, lambda: warm.lines() == before + 3 - is_made_up_for)
    attempt.send(signal.SIGTERM)
    assert attempt.wait(1.2) is None
    attempt.send(signal.SIGTERM)
    assert attempt.wait(5) == 143
    warm.finish()
    assert outcome(warm.run) == oracle.outcome


def test_a_pause_by_the_clock_goes_on_to_the_same_bits(warm, oracle):
    for _ in range(3):
        warm.finish(*warm.command("--max-minutes", "0.0005"))
        assert is_saved_as_reported(warm.run)
    assert 3 <= warm.lines() < 24
    warm.finish()
    assert outcome(warm.run) == oracle.outcome


def contents(run):
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file() and path.name != ".lock"}


def test_a_finished_run_says_its_result_and_touches_nothing(oracle, warm):
    shutil.copytree(oracle.run, warm.run)
    before, times = contents(warm.run), {path: path.stat().st_mtime_ns for path in contents(warm.run)}
    (warm.folder / "data.jsonl").unlink()  # what it was trained on is not needed any more
    attempt = warm.finish()
    assert json.loads(attempt.out.splitlines()[-1])["step"] == 24
    assert contents(warm.run) == before
    assert {path: path.stat().st_mtime_ns for path in before} == times


def test_another_config_is_refused_and_fresh_starts_beside(oracle, warm):
    shutil.copytree(oracle.run, warm.run)
    attempt = warm.finish(*warm.command("seed=4", "optimization.clip=2.0"), code=7)
    assert "seed: 3 -> 4" in attempt.err
    assert "optimization.clip: 1.0 -> 2.0" in attempt.err
    assert outcome(warm.run) == oracle.outcome
    for number in (2, 3):
        warm.finish(*warm.command("seed=4", "max_steps=2", "--fresh"))
        assert num_lines(warm.folder / f"run-{number}" / "metrics.jsonl") == 2


def test_the_config_of_a_run_repeats_it(oracle, warm):
    shutil.copy(oracle.run / "config.toml", warm.folder / "again.toml")
    warm.finish("train", "again.toml", "--out", "run", "--quiet")
    assert outcome(warm.run) == oracle.outcome


def test_no_secret_gets_into_the_record_of_the_environment(warm):
    secrets = {"AWS_SECRET_ACCESS_KEY": "hunter2-and-more", "WANDB_API_KEY": "hunter2-too"}
    assert warm.start(*warm.command("max_steps=1"), environment=secrets).wait() == 0
    text = (warm.run / "environment.json").read_text()
    assert {"packages", "python", "cores", "git_commit"} <= json.loads(text).keys()
    everything = b"".join(path.read_bytes() for path in warm.run.rglob("*") if path.is_file())
    assert b"hunter2" not in everything
    assert str(warm.folder).encode() not in everything
