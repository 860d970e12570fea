"""The checks before the first step pass on every recipe, and a run that fails one ends before it and leaves nothing."""

import json
import sys

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.golden.record import CASES, SMALL, data
from thetahat.cli.main import main
from thetahat.cli.words import find_config
from thetahat.distribution.world import World
from thetahat.run.base import load_base, resolved
from thetahat.run.diagnosis.preflight import preflight
from thetahat.run.machine import set_up
from thetahat.run.prepare import prepare
from thetahat.run.state import first_state
from thetahat.run.train import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    for name, text in data().items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("THETAHAT_CACHE", str(folder / "cache"))


def config_of(case, *more):
    recipe, *keys = [key.format(dtype="float32") for key in CASES[case]]
    changed = {key.split("=", 1)[0] for key in keys}
    small = [key for key in SMALL if key.split("=", 1)[0] not in changed]
    if "base=causal" in keys:
        small = [key for key in small if not key.startswith(("model.", "data.vocab_size"))]
    return find_config([recipe, *small, *keys, *more])


def begun(config):
    config = resolved(config)
    device = set_up(config)
    prepared = prepare(config, None, World())
    state = first_state(config, prepared.tokenizer.vocab_size, prepared.num_steps, device, len(prepared.labels))
    if config.base:
        load_base(state.model, config, len(prepared.labels))
    return prepared, state


@pytest.mark.parametrize("case", CASES)
def test_every_recipe_passes_and_is_left_as_it_was(case, folder, there):
    if "base=causal" in CASES[case] and not (folder / "causal").exists():
        list(train(config_of("causal", "max_steps=2"), folder / "causal"))
    prepared, state = begun(config_of(case))
    tensors = dict(state.model.named_parameters()) | state.optimizer.state()
    before, random = {name: value.detach().clone() for name, value in tensors.items()}, torch.get_rng_state()
    found = preflight(prepared, state, World())
    assert [str(finding) for finding in found if finding.is_wrong] == []
    assert all(torch.equal(value, before[name]) for name, value in tensors.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert {finding.name for finding in found} <= {"peak-never-reached", "many-epochs", "duplicates"}


def test_a_run_is_the_same_with_and_without_the_checks(folder, there):
    for name in ("stop", "off"):
        list(train(config_of("causal", "max_steps=3", f"diagnosis.preflight={name}"), folder / f"with-{name}"))
    runs = [folder / f"with-{name}" / "checkpoints" / "step-00000003" for name in ("stop", "off")]
    for file in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(run / file) for run in runs)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def typed(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["thetahat", "train", *words])
    try:
        main()
    except SystemExit as ended:
        return ended.code
    return 0


def test_a_failed_check_ends_the_run_says_how_to_go_on_and_leaves_nothing(folder, there, monkeypatch, capsys):
    words = ["quickstart", *SMALL, "data.train=text.txt", "max_steps=1", "model.head.scale=100"]
    words += ["prompt=", "data.held_out=none", "--out", "scaled"]
    assert typed(monkeypatch, *words, "--json") == 6
    told = capsys.readouterr()
    assert "before the first step, 1 check fails:\n    wrong-scale: the first value is" in told.err
    assert json.loads(told.out)["error"]["cure"].startswith("diagnosis.preflight=warn to train nevertheless")
    assert not (folder / "scaled").exists()
    assert typed(monkeypatch, *words, "diagnosis.preflight=warn") == 0
    assert "wrong-scale: the first value is" in capsys.readouterr().err
    assert typed(monkeypatch, *words[:-1], "unseen", "diagnosis.preflight=off") == 0
    assert "wrong-scale" not in capsys.readouterr().err


def test_the_checks_are_no_difference_between_runs(there):
    config = config_of("causal")
    other = replace(config, diagnosis=replace(config.diagnosis, preflight="off"))
    assert config.essence == other.essence
    assert other.watch.diagnosis.preflight == "off"
