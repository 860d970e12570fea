"""A model is asked by what lies beside its weights; no optimizer, batch size or data path is needed."""

import shutil

import pytest
from msgspec.structs import replace

from tests.examples import SENTENCE, TINY, run_config
from thetahat.core import store
from thetahat.core.config import from_toml, to_toml
from thetahat.core.errors import ConfigError, DataError, ModelError
from thetahat.data.config import DataConfig
from thetahat.generation.sample import Sampling
from thetahat.run.card import Card
from thetahat.run.folder.checkpoint import TOKENIZER
from thetahat.run.folder.files import CARD, CONFIG, MODEL, OPTIMIZER, STATE
from thetahat.run.folder.find import find_checkpoint
from thetahat.run.train import train
from thetahat.verbs.choose import choose
from thetahat.verbs.generate import generate
from thetahat.verbs.load import load
from thetahat.verbs.score import score

QUESTION = '{"query": "a fox", "choices": [" runs", " sleeps"], "gold": 0}\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained run, a text, questions, and the run's model with nothing beside it but what asking needs."""
    folder = tmp_path_factory.mktemp("card")
    (folder / "text.txt").write_text(f"{SENTENCE}###" * 20)
    (folder / "questions.jsonl").write_text(QUESTION)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(folder / "cache"))
        data = DataConfig(
            train=str(folder / "text.txt"), split_on="###", held_out="tail:0.1", context=32, vocab_size=300
        )
        data = replace(data, over_long="split")
        config = run_config(replace(TINY, num_layers=1), data=data, max_steps=2, dtype="float32", threads=1)
        list(train(config, folder / "run"))
        with store.publishing(folder / "bare") as bare:
            for name in (CARD, MODEL, TOKENIZER):
                shutil.copy(find_checkpoint(str(folder / "run")) / name, bare)
        yield folder


def asked(place, name, *overrides):
    """What score, choose and generate say."""
    loaded = load(str(place / name), overrides)
    scored = score(loaded, [str(place / "text.txt")])
    chosen = choose(loaded, [str(place / "questions.jsonl")])
    text = "".join(generate(loaded, "a", Sampling(temperature=0.0, max_tokens=5)))
    return scored.summary, scored.rows, chosen.to_dict(), text


def test_a_folder_of_weights_tokenizer_and_card_is_asked_as_its_run_is(place):
    assert asked(place, "bare", "threads=1") == asked(place, "run")
    assert len(asked(place, "bare")[1]) == 20  # documents between ###, as in training


def test_without_a_run_nothing_was_held_out(place):
    with pytest.raises(DataError, match="of no run"):
        score(load(str(place / "bare")))


def test_a_checkpoint_without_a_card_says_what_it_is_by_its_config(place, tmp_path):
    of_run = find_checkpoint(str(place / "run"))
    with store.publishing(tmp_path / "old") as old:
        for name in (CONFIG, MODEL, OPTIMIZER, STATE, TOKENIZER):
            shutil.copy(of_run / name, old)
    assert load(str(tmp_path / "old")).card == from_toml((of_run / CARD).read_text(), Card)


def test_a_card_says_nothing_of_how_a_model_learned(place):
    card = (find_checkpoint(str(place / "run")) / CARD).read_text()
    assert not any(word in card for word in ("learning_rate", "batch_size", "max_steps", "text.txt", "seed"))
    assert to_toml(from_toml(card, Card)) == card


def test_what_would_change_nothing_is_refused_and_what_changes_the_asking_is_taken(place):
    for pair in ("max_steps=3", "seed=1", "evaluation.every=2", "model.width=9"):
        with pytest.raises(ConfigError):
            load(str(place / "run"), (pair,))
    loaded = load(str(place / "run"), ("batch_size=3", "evaluation.stride=5", "deterministic=true", "data.split_on=x"))
    policy = loaded.policy
    assert (policy.batch_size, policy.stride, policy.deterministic, loaded.card.separator) == (3, 5, True, "x")
    load(str(place / "run"), ("deterministic=false",))


def test_scoring_a_run_reads_its_parameters_for_their_digest_once_and_its_optimizer_never(place, monkeypatch):
    digested = []
    digest_file = store.digest_file
    monkeypatch.setattr(
        store, "digest_file", lambda path, *told: (digested.append(path.name), digest_file(path, *told))[1]
    )
    score(load(str(place / "run")), [str(place / "text.txt")])
    assert (digested.count(MODEL), digested.count(OPTIMIZER)) == (1, 0)


def test_a_config_that_was_edited_since_is_named_with_its_cure(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    path = tmp_path / "run" / CONFIG
    path.write_text(path.read_text().replace("max_steps = 2", "max_steps = 9"))
    with pytest.raises(ModelError, match=r"(?s)config\.toml was edited .*max_steps: 2 -> 9.*cp .*step-00000002/config"):
        load(str(tmp_path / "run"))
