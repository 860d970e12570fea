"""The moving average of a run: kept beside the parameters, resumed to the bit, and a model of its own."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.examples import SENTENCE, TINY, run_config
from thetahat.core.config import override
from thetahat.core.errors import ModelError
from thetahat.data.config import DataConfig
from thetahat.run.branch import branch
from thetahat.run.folder.files import AVERAGE, MODEL, folder_of, read_progress
from thetahat.run.folder.find import find_checkpoint, find_weights
from thetahat.run.train import train
from thetahat.verbs.load import load
from thetahat.verbs.select import select


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(f"{SENTENCE} " * 20)
    data = DataConfig(
        train=str(tmp_path / "text.txt"), held_out="tail:0.5", context=32, over_long="split", vocab_size=300
    )
    config = run_config(replace(TINY, num_layers=1), data=data, max_steps=6, dtype="float32", threads=1)
    return override(config, ["optimization.ema=0.5", "checkpoint.every=1", "checkpoint.keep=9"])


def test_it_is_the_average_of_what_was_saved_and_changes_no_parameter(config, tmp_path):
    run = tmp_path / "run"
    list(train(config, run))
    list(train(override(config, ["optimization.ema=none"]), tmp_path / "plain"))
    ours, plain = (load_file(folder_of(one, 6) / MODEL) for one in (run, tmp_path / "plain"))
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    saved = [load_file(folder_of(run, step) / MODEL) for step in range(1, 7)]
    average = load_file(folder_of(run, 6) / AVERAGE)
    weights = 0.5 ** np.arange(5, -1, -1.0)
    for name, value in average.items():
        expected = sum(w * one[name].double().numpy() for w, one in zip(weights, saved, strict=True)) / weights.sum()
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_resumed_run_has_the_same_average(config, tmp_path):
    list(train(config, tmp_path / "whole"))
    while not folder_of(tmp_path / "run", 6).exists():
        list(train(config, tmp_path / "run", max_minutes=0.0))
    ours, theirs = (load_file(folder_of(tmp_path / one, 6) / AVERAGE) for one in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_progress(folder_of(tmp_path / "run", 6))["averaged"] == 6
    list(train(branch(str(tmp_path / "whole@3"), ["max_steps=6", "evaluation.final=false"]), tmp_path / "branch"))
    ours = load_file(folder_of(tmp_path / "branch", 6) / AVERAGE)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_averages_are_models(config, tmp_path):
    run = tmp_path / "run"
    list(train(override(config, ["evaluation.ema=true", "evaluation.every=3"]), run))
    average, last = load_file(folder_of(run, 6) / AVERAGE), load_file(folder_of(run, 5) / MODEL)
    newest = load_file(folder_of(run, 6) / MODEL)
    for name, value in load(f"{run}@ema").model.named_parameters():
        assert torch.equal(value, average[name])
    for name, value in load(f"{run}@mean:2").model.named_parameters():
        torch.testing.assert_close(value, (last[name] + newest[name]) / 2)
    assert find_weights(f"{run}@3:ema").folder == folder_of(run, 3)
    assert len({find_weights(f"{run}{at}").digest for at in ("", "@ema", "@5:ema", "@mean:2", "@mean:3")}) == 5
    data = tmp_path / "documents.txt"
    data.write_text("\n\n".join(f"{SENTENCE} {number}" for number in range(9)))
    found = select(str(run), [str(data)], averages=3, overrides=[r"data.split_on=\n\n"])
    names = [standing.name for standing in found.selection.standings]
    assert names == [*"0123456", *(f"{step}:ema" for step in range(1, 7)), "mean:2", "mean:3"]


def test_what_is_no_average_is_said(config, tmp_path):
    list(train(override(config, ["optimization.ema=none", "max_steps=1"]), tmp_path / "run"))
    for at, said in [
        ("@ema", r"keeps no moving average .*\n.*optimization\.ema="),
        ("@mean:2", "has 1 trained checkpoints"),
        ("@mean:x", "a number of checkpoints, 2 or more"),
    ]:
        with pytest.raises(ModelError, match=f"(?s){said}"):
            find_weights(f"{tmp_path / 'run'}{at}")
    with pytest.raises(ModelError, match="without the state of a run"):
        find_checkpoint(f"{tmp_path / 'run'}@ema")
