"""Trackers have of a run what its folder has: each step once, however it was broken off, and training never waits."""

import json
import os
import threading

import pytest

from tests.examples import SENTENCE, TINY, run_config
from tests.run import track_stores
from thetahat.core import store
from thetahat.core.config import override, to_toml
from thetahat.core.errors import ConfigError, FolderError, ModelError
from thetahat.data.config import DataConfig
from thetahat.run.log.metrics import METRICS
from thetahat.run.track import sink
from thetahat.run.track.follow import Follower
from thetahat.run.track.sink import NEEDED, Record
from thetahat.run.train import train
from thetahat.verbs.track import _wait_for_predecessor, track

STEPS, EVALUATIONS = track_stores.CURVES


@pytest.fixture(params=NEEDED)
def name(request, monkeypatch, tmp_path):
    for module in NEEDED[request.param]:
        pytest.importorskip(module, reason=f"pip install 'thetahat[track]' brings {module}")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for variable in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", os.devnull)
    return request.param


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "a run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(run_config(TINY)))
    return folder


def log(run, first, last):
    """What a run logs: steps, an evaluation every 10, with a sample each, and an alarm in step 25."""
    with (run / METRICS).open("a") as metrics, (run / "samples.jsonl").open("a") as samples:
        for step in range(first, last + 1):
            line = {"step": step, "tokens": step, "log_likelihood_per_token": -5.0 / step, "signals": {"a": {"b": 1.0}}}
            metrics.write(json.dumps(line) + "\n")
            if step % 10 == 0:
                found = {"bits_per_byte": 3 / step, "bits_per_byte_ci95": [0.0, 1.0], "num_tokens": 5}
                metrics.write(json.dumps({"step": step} | {f"held_out_{key}": found[key] for key in found}) + "\n")
                samples.write(json.dumps({"step": step, "prompt": "p", "text": "t", "ended": "end"}) + "\n")
            if step == 25:
                alarm = {"step": step, "name": "loss-spike", "severity": "warning", "what": "w", "advice": ["a=b"]}
                (run / "alarms.jsonl").write_text(json.dumps(alarm) + "\n")


def cut(run, step):
    """As a resumed run does."""
    for name in (METRICS, "samples.jsonl", "alarms.jsonl"):
        if (run / name).exists():
            lines = (run / name).read_text().splitlines()
            (run / name).write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step))


def check(run, name, last):
    id = json.loads((run / "track" / "track.json").read_text())["id"]
    found = getattr(track_stores, name)(run, id)
    assert [step for step, _ in found[STEPS]] == list(range(1, last + 1))
    assert [value for _, value in found[STEPS]] == pytest.approx([-5.0 / step for step in range(1, last + 1)])
    tens = list(range(10, last + 1, 10))
    assert [step for step, _ in found[EVALUATIONS]] == tens
    assert [value for _, value in found[EVALUATIONS]] == pytest.approx([3 / step for step in tens])
    assert found["samples"] == tens
    assert found["alarms"] == ([25] if last >= 25 else [])


def test_a_run_that_is_resumed_has_each_step_once(name, run):
    said = []
    follower = Follower(run, [name], 0, said.append)
    log(run, 1, 12)
    follower.follow()
    follower.settle()
    log(run, 13, 27)
    follower.end(is_finished=False)
    assert len(said) == 1
    check(run, name, 27)
    cut(run, 20)
    log(run, 21, 22)  # before it is followed again
    follower = Follower(run, [name], 20, said.append)
    follower.follow()
    log(run, 23, 34)
    follower.end(is_finished=True)
    check(run, name, 34)
    track(run, [name], said.append)  # it lacks nothing
    check(run, name, 34)
    assert not [line for line in said if line.startswith("warning")]


def test_what_is_torn_waits_and_what_failed_is_told_once_and_brought_later(run):
    pytest.importorskip("tensorboard", reason="pip install 'thetahat[track]' brings tensorboard")
    said = []
    (run / "track").mkdir()
    (run / "track" / "tensorboard").write_text("in the way")
    follower = Follower(run, ["tensorboard"], 0, said.append)
    log(run, 1, 5)
    follower.follow()
    follower.end(is_finished=False)
    assert len(said) == 1
    assert said[0].startswith("warning: tensorboard fails, and the run goes on without it: ")
    (run / "track" / "tensorboard").unlink()
    follower = Follower(run, ["tensorboard"], 0, said.append)
    with (run / METRICS).open("a") as file:
        file.write('{"step": 6, "tok')
    assert follower.follow() == 5
    with (run / METRICS).open("a") as file:
        file.write('ens": 6, "log_likelihood_per_token": -0.8333333}\n')
    follower.end(is_finished=True)
    assert said[1].startswith("tensorboard: tensorboard --logdir ")


def test_what_is_no_run_or_no_tracker_is_refused(run, tmp_path):
    with pytest.raises(ModelError, match="no run folder"):
        track(tmp_path / "none", ["tensorboard"])
    with pytest.raises(ConfigError, match="names no tracker"):
        track(run)
    with pytest.raises(ConfigError, match="--to paper is no tracker"):
        track(run, ["paper"])
    assert not (run / "track").exists()


def test_numbers_have_sections_and_intervals_two_ends():
    line = {"step": 1, "held_out_value_ci95": [1, 2], "held_out_sources": {"a": 3.0}, "batch": "0123"}
    found = Record("evaluation", 1, line).numbers()
    assert found == {"held_out/value_ci95_low": 1, "held_out/value_ci95_high": 2, "held_out/sources/a": 3}


def test_a_library_that_is_not_there_is_said_before_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(sink, "find_spec", lambda module: None)
    config = run_config(TINY, track=("wandb",))
    with pytest.raises(ConfigError, match=r"(?s)track=wandb needs the library wandb.*pip install 'thetahat\[track\]'"):
        list(train(config, tmp_path / "run"))
    assert not list((tmp_path / "run").glob("*.toml"))


def test_the_process_of_a_run_that_was_killed_is_waited_for_and_not_for_ever(run, monkeypatch):
    folder = run / "track"
    with store.holding(folder):
        waiting = threading.Thread(target=_wait_for_predecessor, args=(run,))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        monkeypatch.setattr("thetahat.verbs.track.PREDECESSOR", 0.0)
        with pytest.raises(FolderError, match="still held by the process of an earlier start"):
            _wait_for_predecessor(run)
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_training_run_is_followed_by_a_process_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="pip install 'thetahat[track]' brings tensorboard")
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(f"{SENTENCE} " * 20)
    data = DataConfig(train=str(tmp_path / "text.txt"), held_out="none", context=32, over_long="split", vocab_size=300)
    config = override(run_config(TINY, data=data), ["track=tensorboard", "max_steps=3"])
    list(train(config, tmp_path / "run"))
    found = track_stores.tensorboard(tmp_path / "run", "")
    assert [step for step, _ in found[STEPS]] == [1, 2, 3]
