"""Data may be given by place: a name is what it looks like, and where it could be two things that is said."""

import gzip
import json

import pytest

from thetahat.cli.words import find_config
from thetahat.core.config import override
from thetahat.core.errors import ConfigError, DataError, ModelError
from thetahat.core.plain import tidied
from thetahat.data.read.files import find_files
from thetahat.recipes.catalogue import find_recipe
from thetahat.run.config import digest

TEXT = json.dumps({"text": "the sea"}) + "\n"


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """Data of several forms, a run, and a folder with the name of a recipe."""
    monkeypatch.chdir(tmp_path)
    for name in ("my.jsonl", "more.jsonl", "2024.txt", "lang=de.txt", "texts/a.txt", "masked/b.txt", "-.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(TEXT)
    (tmp_path / "my.jsonl.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "runs" / "mine" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text("{}")
    (tmp_path / "theirs" / "vocab.txt").write_text("a\n")
    return tmp_path


@pytest.mark.parametrize("recipe", [[], ["dialogue"]])
@pytest.mark.parametrize(
    "place", ["my.jsonl", "my.jsonl.gz", "./my.jsonl", "texts", "texts/", "*.txt", "2024.txt", "-"]
)
def test_data_by_its_place_is_data_train(desk, recipe, place):
    expected = find_config([*recipe, f"data.train={place}", "batch_size=3"])
    assert find_config([*recipe, place, "batch_size=3"]) == expected
    assert find_config(["batch_size=3", *recipe, place]) == expected


def test_a_file_is_data_unless_it_is_a_config(desk):
    for name in ("notes.rst", "my.md", "app.log", "copyright"):
        (desk / name).write_text("All rights reserved.\n")
        assert find_config([name]).data.train == name
    (desk / "mine").write_text("max_steps = 3\n")
    with pytest.raises(ConfigError, match="mine is neither a recipe nor"):  # it lacks what a config has
        find_config(["mine"])
    (desk / "only" / "deep").mkdir(parents=True)
    (desk / "only" / "deep" / "a.md").write_text("text")
    with pytest.raises(DataError, match=r"left out: 1 of another kind \(only/deep/a\.md\)") as error:
        find_files(find_config(["only"]).data.train)
    assert error.value.cure == "only/deep/a.md"


def test_a_place_that_reads_as_toml_stays_a_path(desk):
    for name in ("2024", "true", "none", "[a]"):
        (desk / name).mkdir()
        (desk / name / "a.txt").write_text("the sea")
        assert find_config(["dialogue", name]).data.train == name


def test_a_path_with_an_equals_sign_is_data(desk):
    assert find_config(["lang=de.txt"]).data.train == "lang=de.txt"


def test_a_recipe_is_a_recipe_where_a_folder_has_its_name(desk):
    assert find_config(["masked"]) == find_config(["masked", "seed=0"])
    assert find_config(["./masked"]).data.train == "masked"
    assert find_config(["masked", "./masked"]) == override(find_config(["masked"]), ["data.train=./masked"])


@pytest.mark.parametrize(
    ("words", "message", "cure"),
    [
        (["dialogue", "masked"], "dialogue and masked: two names of what to start from", "./masked, if it is data"),
        (["dialogue", "translation"], "two names", ""),
        (["dialogue", "config.toml"], "two names", ""),
        (["dialogue", "runs/mine"], "two names", ""),
        (["dialogue", "theirs"], "two names", ""),
        (["my.jsonl", "dialogue"], "dialogue stands behind data", ""),
        (["my.jsonl", "data.train=more.jsonl"], "data came twice: my.jsonl and data.train=more.jsonl", "leave out"),
    ],
)
def test_what_could_be_two_things_is_refused(desk, words, message, cure):
    with pytest.raises(ConfigError) as error:
        find_config(words)
    assert message in error.value.what
    assert cure in (error.value.cure or "")


@pytest.mark.parametrize("folder", ["runs", "empty", "runs/mine", "theirs"])
def test_a_folder_of_runs_a_model_and_an_empty_folder_are_no_data(desk, folder):
    with pytest.raises(ModelError):
        find_config([folder])


@pytest.mark.parametrize("place", ["gone.jsonl", "gone/*.txt", "gone"])
def test_data_that_is_not_there_is_missed_as_data(desk, place):
    config = find_config(["dialogue", place])
    with pytest.raises(DataError, match="gone"):
        find_files(config.data.train)


def test_an_unknown_name_is_missed_as_a_recipe(desk):
    with pytest.raises(ConfigError, match="unknown recipe 'dialog'"):
        find_config(["dialog"])
    with pytest.raises(DataError, match=r"gone\.txt"):
        find_files(find_config(["gone.txt"]).data.train)


def test_several_places_are_a_list(desk):
    assert find_config(["dialogue", "my.jsonl", "more.jsonl"]).data.train == ("my.jsonl", "more.jsonl")
    assert find_config(["my.jsonl", "more.jsonl"]).data.train == ("my.jsonl", "more.jsonl")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("docs/", "docs"),
        ("./docs", "docs"),
        ("docs//a/./b/", "docs/a/b"),
        ("../docs/", "../docs"),
        ("a/../b", "a/../b"),
        ("/", "/"),
        ("./-", "./-"),
        ("./none", "./none"),
        ("./hash:0.1", "./hash:0.1"),
        ("hash:0.1", "hash:0.1"),
        ("bundled:tinyshakespeare", "bundled:tinyshakespeare"),
        ("s3://bucket/a//b/", "s3://bucket/a//b/"),
        ("docs/**/", "docs/**/"),
        ("hf:owner/name", "hf:owner/name"),
    ],
)
def test_one_place_is_one_config_however_it_is_written(typed, meant):
    assert tidied(typed) == tidied(tidied(typed)) == meant
    keys = ("data.train", "data.tokenizer", "data.sources.one.path")
    for key in keys:
        pairs = ([f"{key}={one}", *(["data.train="] if "sources" in key else [])] for one in (typed, meant))
        one, other = (override(find_recipe("quickstart"), some) for some in pairs)
        assert digest(one) == digest(other)
    many = override(find_recipe("quickstart"), [f'data.train=["{typed}","x"]', f"base={typed}"])
    assert (many.data.train, many.base) == ((meant, "x"), meant)
