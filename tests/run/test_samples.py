"""What a run writes while it trains: due when it was asked for, each time once, and no bit of training is another."""

import json

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.examples import SENTENCE, TINY, run_config
from thetahat.core.config import override
from thetahat.core.errors import ConfigError
from thetahat.data.config import DataConfig
from thetahat.run.folder.files import MODEL, OPTIMIZER
from thetahat.run.log.samples import SAMPLES, read_samples
from thetahat.run.train import train

ASKED = ["samples.prompts=[the whale, a ship]", "samples.max_tokens=5", "samples.every=2"]


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text(f"{SENTENCE} " * 20)
    data = DataConfig(train=str(text), held_out="tail:0.1", context=32, over_long="split", vocab_size=300)
    model = replace(TINY, num_layers=1, dropout=0.1)
    return run_config(model, data=data, max_steps=5, dtype="float32", threads=1)


def steps_of(run):
    return [(sample.step, sample.prompt) for sample in read_samples(run)]


def test_samples_are_written_when_due_and_change_no_bit(config, tmp_path):
    list(train(config, tmp_path / "plain"))
    reports = list(train(override(config, ASKED), tmp_path / "run"))
    assert steps_of(tmp_path / "run") == [(step, prompt) for step in (2, 4, 5) for prompt in ("the whale", "a ship")]
    assert [sample.step for report in reports for sample in report.samples] == [2, 2, 4, 4, 5, 5]
    assert all(sample.text and sample.ended in {"length", "end"} for sample in read_samples(tmp_path / "run"))
    for name in (MODEL, OPTIMIZER):
        ours, theirs = (load_file(tmp_path / run / "checkpoints" / "step-00000005" / name) for run in ("run", "plain"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_without_a_number_of_steps_they_come_with_evaluations(config, tmp_path):
    list(train(override(config, [*ASKED, "samples.every=0", "evaluation.every=3"]), tmp_path / "run"))
    assert sorted({step for step, _ in steps_of(tmp_path / "run")}) == [3, 5]


def test_a_resumed_run_has_each_sample_once(config, tmp_path):
    asked = override(config, [*ASKED, "samples.every=1"])
    list(train(asked, tmp_path / "whole"))
    run = tmp_path / "run"
    for _ in range(2):
        list(train(asked, run, max_minutes=0.0))  # one step
    later = [{"step": step, "prompt": "p", "text": "t", "ended": "end"} for step in (3, 4)]
    with (run / SAMPLES).open("a") as file:  # as a killed process leaves it
        file.write("".join(f"{json.dumps(line)}\n" for line in later) + '{"step": 9, "pro')
    list(train(asked, run))
    assert read_samples(run) == read_samples(tmp_path / "whole")


def test_what_cannot_be_written_is_refused_before_anything(config, tmp_path):
    (tmp_path / "text.txt").write_text("the whale and the sea\n\na ship at night\n\n" * 20)
    asked = ["samples.prompts=" + SENTENCE * 9, "data.over_long=error", r"data.split_on=\n\n"]
    with pytest.raises(ConfigError, match=r"samples\.every=3 has no effect: nothing is written"):
        list(train(override(config, ["samples.every=3"]), tmp_path / "run"))
    with pytest.raises(Exception, match=r"prompt 1 of samples\.prompts has .* tokens"):
        list(train(override(config, asked), tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
