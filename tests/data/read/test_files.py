import os
import subprocess
import sys
from pathlib import Path

import pytest

from thetahat.core.errors import DataError
from thetahat.data.read.files import find_files, keep_standard_input, label_files
from thetahat.data.read.source import read_records


@pytest.fixture
def folder(write, tmp_path):
    for name in ["b.txt", "a.jsonl", "deep/er/c.txt.gz", "deep/a.jsonl.gz", "notes.md", "deep/x.json"]:
        write(name, "text")
    return tmp_path


def names(files, folder):
    return [file.relative_to(folder).as_posix() for file in files]


def test_a_folder_is_searched_all_the_way_down_in_the_order_of_names(folder):
    assert names(find_files(str(folder)), folder) == ["a.jsonl", "b.txt", "deep/a.jsonl.gz", "deep/er/c.txt.gz"]


def test_a_glob_finds_what_it_matches_and_can_be_read(folder):
    assert names(find_files(f"{folder}/*"), folder) == ["a.jsonl", "b.txt"]
    assert names(find_files(f"{folder}/**/*.gz"), folder) == ["deep/a.jsonl.gz", "deep/er/c.txt.gz"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(write):
    path = write("what[1].txt", "text")
    assert find_files(str(path)) == [path]


@pytest.mark.parametrize("name", ["missing.txt", "missing/*.txt", "notes.md", "empty"])
def test_what_cannot_be_found_says_what_can_be_read(folder, name):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=name.replace("*", r"\*")) as error:
        find_files(str(folder / name))
    assert ".jsonl.gz" in str(error.value)


def test_a_bundled_text_comes_with_the_package():
    (path,) = find_files("bundled:tinyshakespeare")
    assert path.stat().st_size == 1115394
    with pytest.raises(DataError, match="bundled:tinyshakespeare"):
        find_files("bundled:war_and_peace")


def test_files_of_one_name_are_told_apart_by_their_folders(folder):
    files = find_files(str(folder))
    assert label_files(files) == ["a.jsonl", "b.txt", "a.jsonl.gz", "c.txt.gz"]
    assert label_files([Path("x/a.txt"), Path("x/y/a.txt")]) == ["a.txt", "y/a.txt"]


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        (b'{"text": "one"}\n{"text": "two"}\n', ".jsonl"),
        (b'\xef\xbb\xbf {"text": "one"}\n', ".jsonl"),
        (b"one\ntwo", ".txt"),
    ],
)
def test_standard_input_is_kept_so_that_it_can_be_read_again(monkeypatch, write, text, suffix):
    keep_standard_input.cache_clear()
    with write("input", text).open(encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        (path,) = find_files("-")
    assert path.suffix == suffix
    assert path.read_bytes() == text
    assert list(read_records("-")) == list(read_records("-"))
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    keep_standard_input.cache_clear()


def test_a_name_that_is_no_text_is_refused(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(path)).write_text("text")
    for spec in (os.fsdecode(path), str(tmp_path)):
        with pytest.raises(DataError, match=r"caf\\xe9.txt is not UTF-8"):
            find_files(spec)


def test_the_same_standard_input_is_the_same_file():
    command = [sys.executable, "-c", "from thetahat.data.read.files import find_files; print(*find_files('-'))"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    first, again, other = (
        subprocess.run(command, input=text, capture_output=True, text=True, check=True, env=env).stdout
        for text in ("to be", "to be", "not to be")
    )
    assert first == again != other
