"""Every key can be looked up: with its default in each variant, what it may be, and what it means."""

import msgspec
import pytest

from thetahat.core.config.typed import value_of
from thetahat.core.errors import ConfigError
from thetahat.core.schema import hint_at, known_keys
from thetahat.run.config import InferenceConfig, RunConfig
from thetahat.verbs.keys import REQUIRED, all_keys, keys

KEYS = all_keys(RunConfig)


def test_every_key_is_there_once_for_each_of_its_meanings():
    names = [key.key for key in KEYS]
    assert set(known_keys(RunConfig)) == {name for name in names if "[]." not in name}
    assert len({(key.key, key.where) for key in KEYS}) == len(KEYS)


def test_a_key_says_what_it_means_and_what_it_may_be():
    assert [key.key for key in KEYS if not key.meaning or not key.allowed] == []
    assert [key.key for key in KEYS if "kind = ," in key.allowed] == []


def test_a_default_is_what_may_be_typed():
    typed = [key for key in KEYS if key.default not in ("", REQUIRED) and "[]." not in key.key]
    for key in typed:
        hint = hint_at(RunConfig, key.key.split("."))
        msgspec.convert(value_of(key.default, hint), hint)
    assert len(typed) > 100


def test_a_default_of_each_variant_is_listed():
    found = {key.where: key.default for key in keys("optimization.schedule.final")}
    assert found == {
        ("optimization.schedule.kind=cosine",): "0.1",
        ("optimization.schedule.kind=wsd",): "0.0",
    }
    (kind,) = keys("optimization.schedule.kind")
    assert kind.default == "constant"
    assert kind.allowed == "constant, cosine, wsd"
    assert "wsd: Warm-up, stable, decay" in kind.meaning


def test_a_prefix_ends_with_a_name():
    assert [key.key for key in keys("data.chat")][:2] == ["data.chat", "data.chat.template"]
    assert {key.key.partition(".")[0] for key in keys("data.")} == {"data"}
    assert "base_digest" not in {key.key for key in keys("base")}


def test_a_word_finds_a_key_by_its_meaning():
    assert "model.layers[].distance" in {key.key for key in keys(find="sliding WINDOW")}
    with pytest.raises(ConfigError, match="no key below data has 'sliding'"):
        keys("data", "sliding")


@pytest.mark.parametrize(
    ("prefix", "meant"),
    [("optimisation", "optimization"), ("data.contxt", "data.context"), ("dta.train", "data.train"), ("evalution", "")],
)
def test_a_misspelt_prefix_is_answered_with_the_one_that_was_meant(prefix, meant):
    with pytest.raises(ConfigError, match=f"no key begins with '{prefix}'") as error:
        keys(prefix)
    assert error.value.cure == f"thetahat keys {meant or 'evaluation'}"


def test_an_unknown_prefix_is_an_error_that_names_where_the_word_stands():
    with pytest.raises(
        ConfigError, match=r"no key begins with 'schedule'\n  try: thetahat keys optimization\.schedule"
    ):
        keys("schedule")


def test_what_a_trained_model_may_be_asked_with_is_marked():
    marked = {key.key for key in KEYS if key.asks}
    assert set(known_keys(InferenceConfig)) <= marked
    assert "max_steps" not in marked
