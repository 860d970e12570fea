"""Folders of datasets: which split is meant must be said, and each is read as it was laid."""

import json

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.data.read.tables import save_splits, save_to_disk, write_arrow, write_json, write_parquet
from thetahat.core.errors import DataError
from thetahat.data.config import DataConfig
from thetahat.data.read import files
from thetahat.data.read.files import find_files
from thetahat.data.read.source import divide
from thetahat.data.read.table.splits import declared_splits
from thetahat.data.read.texts import read_records


def texts(*names):
    return [{"text": name} for name in names]


def read(spec):
    return [record.text for record in read_records(str(spec))]


@pytest.fixture(autouse=True)
def _say_again():
    files.say_once.cache_clear()


def test_a_saved_dataset_is_read_as_it_was_saved(tmp_path, caplog):
    folder = save_to_disk(tmp_path / "mine", texts(*"abcde"), 3)
    assert read(folder) == [*"abcde"]
    assert [record.id for record in read_records(str(folder))][:3] == [
        "data-00000-of-00003.arrow:1", "data-00000-of-00003.arrow:2", "data-00001-of-00003.arrow:1"]  # fmt: skip
    assert caplog.text == ""
    write_arrow(folder / "cache-8b1f.arrow", texts("derived"))
    assert read(folder) == [*"abcde"]
    assert "1 not named as data of the dataset" in caplog.text
    assert "cache-8b1f.arrow" in caplog.text


def test_which_split_is_meant_must_be_said(tmp_path):
    folder = save_splits(tmp_path / "mine", {"train": texts(*"abc"), "test": texts(*"de")})
    with pytest.raises(DataError) as error:
        find_files(str(folder))
    assert str(error.value).startswith(f"{folder} holds several splits: train, test\n")
    assert str(error.value).endswith(f"try: data.train={folder}/train data.held_out={folder}/test")
    train, held_out = divide(DataConfig(train=f"{folder}/train", held_out=f"{folder}/test"))
    assert [[record.text for record in part] for part in (train, held_out)] == [[*"abc"], [*"de"]]
    alone = save_splits(tmp_path / "alone", {"train": texts("x")})
    assert read(alone) == ["x"]


def test_what_datasets_has_downloaded_is_read_from_its_cache(tmp_path):
    folder = tmp_path / "imdb" / "0.0.0" / "e6281661"
    for name, some in {
        "imdb-train-00000-of-00002": "ab",
        "imdb-train-00001-of-00002": "c",
        "imdb-unsupervised": "de",
    }.items():
        write_arrow(folder / f"{name}.arrow", texts(*some))
    write_json(folder / "dataset_info.json", {"splits": {"train": {"num_bytes": 1}, "unsupervised": {}, "test": {}}})
    with pytest.raises(DataError, match="several splits: train, unsupervised"):
        find_files(str(folder))
    assert read(f"{folder}/train") == [*"abc"]
    assert read(f"{folder}/unsupervised") == [*"de"]


def hub(folder, layout):
    for name, some in layout.items():
        write_parquet(folder / name, texts(*some))
    return folder


LAYOUTS = {
    "shards": {
        "data/train-00000-of-00002.parquet": "ab",
        "data/train-00001-of-00002.parquet": "c",
        "data/test-00000-of-00001.parquet": "de",
    },
    "marked shards": {
        "data/train-00000-of-00001-2e8c0a77f1.parquet": "abc",
        "data/test-00000-of-00001-9d1b.parquet": "de",
    },
    "folders": {"train/0000.parquet": "ab", "train/0001.parquet": "c", "test/0000.parquet": "de"},
    "configs": {"default/train/0000.parquet": "abc", "default/test/0000.parquet": "de"},
    "files": {"mine-train.parquet": "abc", "test_small.parquet": "de"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_of_the_hub_are_told_by_their_names(tmp_path, layout):
    folder = hub(tmp_path / "mine", LAYOUTS[layout])
    with pytest.raises(DataError, match="several splits"):
        find_files(str(folder))
    below = f"{folder}/default" if layout == "configs" else str(folder)
    name = "test_small" if layout == "files" else "test"
    for spec in {below, str(folder)}:
        assert read(f"{spec}/train") == [*"abc"]
        assert read(f"{spec}/{'test' if name != 'test' else name}") == [*"de"]
    train, held_out = divide(DataConfig(train=f"{folder}/train", held_out=f"{folder}/test"))
    assert [len(list(part)) for part in (train, held_out)] == [3, 2]
    assert sorted(read(f"{folder}/**")) == [*"abcde"]
    with pytest.raises(DataError, match=rf"has no split 'dev'.*\n.*{folder}/t"):
        find_files(f"{folder}/dev")


def test_one_split_and_files_without_one_need_no_word(tmp_path, caplog):
    assert read(hub(tmp_path / "a", {"data/train-00000-of-00001.parquet": "ab"})) == ["a", "b"]
    assert read(hub(tmp_path / "b", {"x.parquet": "a", "y/z.parquet": "b"})) == ["a", "b"]
    folder = hub(tmp_path / "c", {"train-00001-of-00003.parquet": "ab"})
    assert read(folder) == ["a", "b"]
    assert f"{folder}: 1 of 3 files of {folder}/train are there" in caplog.text


CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: data/tr-*.parquet
  - split: test
    path: [more/x.parquet, "more/y*"]
- config_name: de
  data_dir: german
dataset_info: {}
---
# Mine
"""


def test_splits_are_those_that_a_card_describes(tmp_path):
    layout = {"data/tr-1.parquet": "ab", "data/tr-2.parquet": "c", "more/x.parquet": "d", "more/y1.parquet": "e"}
    folder = hub(tmp_path / "mine", layout | {"german/train/0.parquet": "f", "german/test/0.parquet": "g"})
    (folder / "README.md").write_text(CARD)
    with pytest.raises(DataError, match="several splits: train, test, de/train, de/test"):
        find_files(str(folder))
    assert read(f"{folder}/train") == [*"abc"]
    assert read(f"{folder}/test") == [*"de"]
    assert read(f"{folder}/de/test") == ["g"]
    (folder / "README.md").write_text("---\nconfigs:\n- data_files: data/tr-1*\n---\n")
    assert read(folder) == ["a", "b"]


CARDS = {
    "no yaml": "---\nconfigs: [\n---\n",
    "no list": "---\nconfigs: 3\n---\n",
    "no tables": "---\nconfigs: [a]\n---\n",
    "outside": "---\nconfigs:\n- data_files: ../other/*\n---\n",
    "a network": "---\nconfigs:\n- data_files: hf://datasets/x/y.parquet\n---\n",
    "numbers": "---\nconfigs:\n- data_files: [1, 2]\n---\n",
    "an object": "---\nconfigs: !!python/object/apply:os.system ['touch /tmp/x']\n---\n",
}


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_a_card_that_cannot_be_read_is_named(tmp_path, card):
    folder = hub(tmp_path / "mine", {"a.parquet": "a"})
    (folder / "README.md").write_text(card)
    with pytest.raises(DataError, match=r"README\.md"):
        find_files(str(folder))


def test_a_readme_that_describes_no_data_is_a_readme(tmp_path):
    for index, text in enumerate(("# words", "---\nlicense: mit\n---\n", "---\nconfigs", "")):
        folder = hub(tmp_path / str(index), {"a.parquet": "a"})
        (folder / "README.md").write_text(text)
        assert declared_splits(folder) == {}
        assert read(folder) == ["a"]


BROKEN = {
    "a file that is not there": ({"_data_files": [{"filename": "lost.arrow"}]}, "lost.arrow is not there"),
    "a path outside": ({"_data_files": [{"filename": "../x.arrow"}]}, "names '../x.arrow'"),
    "no names": ({"_data_files": ["x"]}, "no list of files"),
    "indices": ({"_data_files": [], "_indices_files": [{"filename": "i.arrow"}]}, "a file of indices"),
    "no object": ([], "holds no object"),
}


@pytest.mark.parametrize(("state", "what"), BROKEN.values(), ids=BROKEN)
def test_a_broken_saved_dataset_is_named(tmp_path, state, what):
    folder = save_to_disk(tmp_path / "mine", texts("a"))
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=what):
        find_files(str(folder))


def test_a_state_of_something_else_is_no_dataset(tmp_path, caplog):
    folder = hub(tmp_path / "mine", {"a.parquet": "a"})
    for content in ("no json", '{"step": 3}'):
        (folder / "state.json").write_text(content)
        assert read(folder) == ["a"]
    assert "state.json" in caplog.text


def test_a_name_that_is_nothing_is_looked_for_in_no_other_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub(tmp_path, LAYOUTS["shards"])
    for spec in ("train", "missing/train", "data/x.parquet", "data/train/test/more"):
        with pytest.raises(DataError, match="no such file or folder"):
            find_files(spec)


PLACES = st.sampled_from(
    ["train-00000-of-00001.parquet", "data/x.parquet", "test/0.parquet", "dev.parquet", "a/b/c.parquet"]
)


@given(st.sets(PLACES, min_size=1), st.booleans())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_file_of_a_folder_is_read_or_its_splits_are_named(tmp_path_factory, names, with_card):
    folder = hub(tmp_path_factory.mktemp("d") / "mine", dict.fromkeys(names, "a"))
    if with_card:
        (folder / "README.md").write_text("---\nconfigs:\n- data_files: data/*\n---\n")
    error = None
    try:
        found = files.survey(str(folder))
    except DataError as raised:
        error = str(raised)
    if error is not None:
        assert "several splits" in error or "no file to read" in error
        return
    left_out = {path for paths in found.skipped.values() for path in paths}
    assert {folder / name for name in names} <= {*found.files} | left_out
