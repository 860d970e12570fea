"""What a name that is no model may have meant is what the error says to type."""

import pytest

from tests.examples import SENTENCE, TINY, run_config
from thetahat.core.errors import ModelError
from thetahat.data.config import DataConfig
from thetahat.run.folder.absent import refuse_absent
from thetahat.run.folder.find import find_checkpoint
from thetahat.run.train import train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("find")
    (folder / "text.txt").write_text(f"{SENTENCE} " * 20)
    data = DataConfig(
        train=str(folder / "text.txt"), held_out="tail:0.1", context=32, over_long="split", vocab_size=300
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(folder / "cache"))
        assert len(list(train(run_config(TINY, data=data, max_steps=2), folder / "runs" / "whale"))) == 2
    return folder


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("runs/whales", "runs/whale"),
        ("whale", "runs/whale"),
        ("runs/whale/checkpoints", "runs/whale"),
        ("runs/whale/checkpoints/step-2", "runs/whale"),
        ("text.txt", "a MODEL before it, for example runs/whale"),
        ("runs", "runs/whale"),
    ],
)
def test_a_name_that_is_no_model_is_answered_with_the_one_that_was_meant(place, monkeypatch, name, cure):
    monkeypatch.chdir(place)
    with pytest.raises(ModelError, match="is not a model") as error:
        find_checkpoint(name)
    assert error.value.cure == cure


def test_of_several_runs_those_with_a_name_near_it_are_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "dialogue", "quicker", "masked"):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
    for name, cure in (("runs/qickstart", "runs/quickstart"), ("maskd", "runs/masked")):
        with pytest.raises(ModelError) as error:
            refuse_absent(name)
        assert error.value.cure.split(" or ")[0] == cure
        assert "dialogue" not in error.value.cure


def test_where_there_is_no_run_the_cure_is_to_train_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="thetahat train makes one"):
        find_checkpoint("anything")


def test_the_best_is_known_where_the_file_that_names_it_is_gone(place):
    best = find_checkpoint(f"{place}/runs/whale@best")
    (place / "runs" / "whale" / "checkpoints" / "best").unlink()
    assert find_checkpoint(f"{place}/runs/whale@best") == best
