"""What a command leaves behind when it fails before anything was trained."""

import pytest
from msgspec.structs import replace

from tests.examples import SENTENCE, TINY, run_config
from thetahat.core.config import to_toml
from thetahat.core.errors import DataError, FolderError, ModelError
from thetahat.data.config import DataConfig
from thetahat.run.folder.folder import enter
from thetahat.run.start import result
from thetahat.run.train import train


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text(f"{SENTENCE} " * 20)
    data = DataConfig(train=str(text), held_out="tail:0.1", context=32, over_long="split", vocab_size=300)
    return run_config(replace(TINY, num_layers=1), data=data, max_steps=2)


def misspelt(config):
    return replace(config, data=replace(config.data, train=config.data.train + "x"))


def test_a_misspelt_path_leaves_no_folder(config, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(train(misspelt(config), tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert len(list(train(config, tmp_path / "run"))) == 2


def test_what_else_lies_in_the_folder_stays(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(DataError):
        list(train(misspelt(config), tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_run_that_was_killed_before_step_0_does_not_keep_its_config(config, tmp_path):
    (tmp_path / "run").mkdir()
    enter(tmp_path / "run", misspelt(config))
    (tmp_path / "run" / "tokenizer.json").write_text("of other text")
    assert len(list(train(config, tmp_path / "run"))) == 2


def test_a_run_that_has_begun_keeps_its_config(config, tmp_path):
    list(train(config, tmp_path / "run"))
    with pytest.raises(FolderError, match="seed: 0 -> 1"):
        list(train(replace(config, seed=1), tmp_path / "run"))


def test_damaged_metrics_are_named(config, tmp_path):
    list(train(config, tmp_path / "run"))
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ModelError, match=r"metrics\.jsonl:1 is damaged"):
        result(tmp_path / "run", config)


@pytest.mark.parametrize("name", ["config.toml", "tokenizer.json"])
def test_files_that_somebody_else_put_there_are_neither_used_nor_deleted(config, tmp_path, name):
    (tmp_path / "run").mkdir()
    theirs = to_toml(config) if name == "config.toml" else "{}"
    (tmp_path / "run" / name).write_text(theirs)
    for one in (config, misspelt(config)):
        with pytest.raises(FolderError, match=f"{name} is not of a run"):
            list(train(one, tmp_path / "run"))
    assert (tmp_path / "run" / name).read_text() == theirs
