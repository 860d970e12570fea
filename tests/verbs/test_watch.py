"""A run is watched through its folder: what is there is shown, and what is torn or not there yet is waited for."""

import json

import pytest

from tests.examples import TINY, run_config
from thetahat.cli import watch as cli
from thetahat.core import store
from thetahat.core.config import to_toml
from thetahat.run.log.metrics import METRICS
from thetahat.verbs.watch import Watching, watch


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(run_config(TINY, max_steps=100)))
    return folder


def step_line(step):
    return {
        "step": step,
        "tokens": 10 * step,
        "log_likelihood_per_token": -2.0,
        "gradient_norm": 0.5,
        "learning_rate_factor": 1.0,
        "seconds": 0.5 * step,
    }


def write(run, lines, name=METRICS):
    with (run / name).open("a") as file:
        file.write("".join(f"{json.dumps(line)}\n" for line in lines))


def test_what_a_run_has_logged_is_seen_as_it_grows(run):
    watching = Watching(run)
    assert (watching.look().state, watching.look().num_steps) == ("waiting", 100)
    write(run, [step_line(step) for step in range(1, 41)])
    write(run, [{"step": 40, "held_out_bits_per_byte": 1.5, "held_out_num_tokens": 3, "seconds": 20.0}])
    with store.holding(run):
        seen = watching.look()
    assert (seen.state, seen.step, seen.tokens, seen.nats_per_token) == ("running", 40, 400, 2.0)
    assert seen.tokens_per_second == pytest.approx(20)
    assert seen.seconds_left == pytest.approx(30)
    assert (seen.held_out, seen.best, seen.best_step, seen.unit) == (1.5, 1.5, 40, "bits per byte")
    with (run / METRICS).open("a") as file:
        file.write('{"step": 41, "tok')
    assert watching.look().step == 40
    with (run / METRICS).open("a") as file:
        file.write("\n")
    write(run, [{"step": 50, "held_out_bits_per_byte": 1.7}])
    write(run, [{"step": 3, "name": "loss-spike", "severity": "warning", "what": "w\x1b[2J"}], "alarms.jsonl")
    write(run, [{"step": 40, "prompt": "p", "text": "a\nb", "ended": "end"}], "samples.jsonl")
    seen = watching.look()
    assert (seen.num_damaged, seen.held_out, seen.best, seen.state) == (1, 1.7, 1.5, "paused")
    shown = cli._screen(watching, seen, has_colours=False)
    assert "paused  step 40/100 (40%)" in shown
    assert "held out 1.7000 bits per byte  best 1.5000 at step 40" in shown
    assert "step 3 loss-spike (warning): w\\x1b[2J" in shown
    assert "step 40 writes: p|a\\nb" in shown
    assert "Nats per token over step" in shown
    assert len(watching.panels()[0].curves[0].y) == 40


@pytest.mark.parametrize(("columns", "lines"), [(120, 40), (80, 24), (40, 20), (40, 10)])
def test_a_screen_is_as_large_as_the_terminal_and_loses_no_number(run, monkeypatch, columns, lines):
    monkeypatch.setattr(cli.shutil, "get_terminal_size", lambda: (columns, lines))
    write(run, [step_line(step) for step in range(1, 41)])
    write(run, [{"step": 40, "held_out_bits_per_byte": 1.5, "seconds": 20.0}])
    alarms = [{"step": step, "name": "bad-batch", "severity": "warning", "what": "w" * 150} for step in range(9)]
    write(run, alarms, "alarms.jsonl")
    write(run, [{"step": 40, "prompt": "p", "text": "t" * 300, "ended": "end"}], "samples.jsonl")
    watching = Watching(run)
    shown = cli._screen(watching, watching.look(), has_colours=False).splitlines()
    assert max(map(len, shown)) <= columns
    assert len(shown) <= max(lines, 12)  # numbers, alarms and samples are there even where the curve is not
    said = " ".join(shown)
    for told in (
        "step 40/100 (40%)",
        "2.0000 nats/target",
        "gradient 0.5",
        "held out 1.5000",
        "best 1.5000 at step 40",
    ):
        assert told in said
    assert ("Nats per token" in said) == (lines > 20)
    assert [line for line in shown if "bad-batch" in line][-1].endswith("…")


def test_a_resumed_run_is_cut_back(run):
    watching = Watching(run)
    write(run, [step_line(step) for step in range(1, 61)])
    assert watching.look().step == 60
    lines = (run / METRICS).read_text().splitlines(keepends=True)
    (run / METRICS).write_text("".join(lines[:50]))
    assert watching.look().step == 50
    write(run, [step_line(step) for step in range(51, 101)])
    seen = watching.look()
    assert (seen.step, seen.state, seen.seconds_left) == (100, "finished", None)


def test_a_run_that_is_not_there_is_waited_for(tmp_path):
    seen = watch(tmp_path / "none")
    assert (seen.state, seen.step, seen.num_steps, seen.best) == ("waiting", 0, None, None)
    assert "is not there yet" in cli._screen(Watching(tmp_path / "none"), seen, has_colours=False)
