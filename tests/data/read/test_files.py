import bz2
import gzip
import json
import logging
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from thetahat.core.errors import DataError
from thetahat.data.read import files
from thetahat.data.read.files import find_files, label_files, survey
from thetahat.data.read.named.standard_input import keep_standard_input
from thetahat.data.read.question import read_questions
from thetahat.data.read.texts import read_records


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


@pytest.mark.parametrize("name", ["missing.txt", "missing/*.txt", "notes.html", "empty"])
def test_what_cannot_be_found_says_what_can_be_read(folder, name):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=name.replace("*", r"\*")) as error:
        find_files(str(folder / name))
    assert ".jsonl.gz" in str(error.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("b.text", "b.txt"),
        ("c.txt.gz", ""),
        ("er/c.txt.gz", "deep/er/c.txt.gz"),
        ("deap/a.jsonl.gz", "deep/a.jsonl.gz"),
        ("deep/b.jsonl.gz", ""),
        ("x.json", "deep/x.json"),
        ("zzz.csv", ""),
    ],
)
def test_a_name_near_one_that_is_missing_is_what_to_type(folder, monkeypatch, name, near):
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match="no such file or folder") as error:
        find_files(name)
    assert error.value.cure == near


def test_a_text_that_is_named_is_read_whatever_its_name_and_a_folder_says_how(write, tmp_path, caplog):
    for name in ("docs/a.txt", "docs/b.rst", "docs/deep/c.rst", "docs/copyright", "docs/d.py.gz"):
        write(name, gzip.compress(b"print()") if name.endswith(".gz") else f"text of {name}")
    write("docs/e.png", b"\x89PNG\r\n\x1a\n\0\0")
    write("docs/more", '{"text": "an object"}\n{"text": "two"}')
    top = f"{tmp_path}/docs"
    with caplog.at_level(logging.INFO, "thetahat"):
        for spec, count in ((f"{top}/copyright", 1), (f"{top}/**/*.rst", 2), (f"{top}/d.py.gz", 1)):
            assert len([record.text for record in read_records(spec)]) == count
        assert names(find_files(top), tmp_path) == ["docs/a.txt"]
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == f"read as plain text: {top}/copyright"
    assert told[-1].endswith(f"to read more of them, name them, too: '{top}/**/*.rst' {top}/copyright {top}/d.py.gz")
    for name, why, cure in (
        ("e.png", "1 binary", ""),
        ("more", "lines of JSON", f"mv {top}/more {top}/more.jsonl"),
        ("*.png", "1 binary", ""),
    ):
        with pytest.raises(DataError, match=why) as error:
            find_files(f"{top}/{name}")
        assert error.value.cure == cure
    (write("old.rst", "caf\xe9".encode("latin-1")),)
    with pytest.raises(DataError, match=r"not UTF-8: byte 0xe9 at offset 3"):
        list(read_records(f"{tmp_path}/old.rst"))


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
        (b'[\n{"text": "one"}]', ".json"),
        (b"[Enter a ghost]", ".txt"),
        (gzip.compress(b'{"text": "one"}', mtime=0), ".jsonl.gz"),
    ],
)
def test_standard_input_is_kept_so_that_it_can_be_read_again(monkeypatch, write, text, suffix):
    keep_standard_input.cache_clear()
    with write("input", text).open(encoding="latin-1") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        (path,) = find_files("-")
    assert path.name.endswith(suffix)
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


NAMES = ["a.txt", "b.JSONL", "c.md", "d.csv", "e.json", ".hidden.txt", "f.txt.gz", "g", "h.parquet"]
FOLDERS = ["", "x", "x/y", ".git", "x/.cache/z"]


@given(st.sets(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES)), min_size=1), st.booleans())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_of_a_folder_is_left_unread_without_a_line_that_names_it(tmp_path_factory, caplog, places, links):
    top = tmp_path_factory.mktemp("tree")
    for folder, name in places:
        (top / folder).mkdir(parents=True, exist_ok=True)
        (top / folder / name).write_text("text")
    if links:
        (top / "back").symlink_to(top)
        (top / "lost.txt").symlink_to(top / "nowhere")
    (top / "always.txt").write_text("text")
    found = survey(str(top))
    skipped = {path for paths in found.skipped.values() for path in paths}
    there = {Path(folder) / name for folder, _, names in os.walk(top) for name in names}
    assert all(path in found.files or {path, *path.parents} & skipped for path in there)
    assert not set(found.files) & skipped
    assert (top / "back" in skipped) == (top / "lost.txt" in skipped) == links
    caplog.clear()
    find_files(str(top))
    told = "".join(record.getMessage() for record in caplog.records)
    assert all(f"{len(paths)} {why} (" in told for why, paths in found.skipped.items())
    assert bool(told) == bool(skipped)


def test_a_line_counts_what_is_left_out_and_says_it_once(write, tmp_path, caplog):
    for name in ("a.txt", *(f"{index}.md" for index in range(8))):
        write(name, "text")
    with caplog.at_level(logging.WARNING, "thetahat"):
        find_files(str(tmp_path))
        find_files(str(tmp_path))
    (record,) = caplog.records
    assert f"{tmp_path}: 1 files are read; left out: 8 of another kind ({tmp_path}/0.md, " in record.getMessage()
    assert "and 3 more" in record.getMessage()


def test_a_glob_and_a_folder_find_the_same(write, tmp_path):
    for name in ("a.txt", "x/b.jsonl", ".x/c.txt", "x/.d.txt", "x/y/e.txt"):
        write(name, "text")
    (tmp_path / "x" / "y" / "round").symlink_to(tmp_path)
    (tmp_path / "x" / "z").symlink_to(tmp_path / "x" / "y")
    expected = ["a.txt", "x/b.jsonl", "x/y/e.txt"]
    for spec in ("", "/**", "/**/*", "/**/*.*"):
        assert names(find_files(f"{tmp_path}{spec}"), tmp_path) == expected
    assert names(find_files(f"{tmp_path}/*/**/*.txt"), tmp_path) == ["x/y/e.txt"]
    assert names(find_files(f"{tmp_path}/.x/*"), tmp_path) == [".x/c.txt"]


def test_a_folder_elsewhere_that_is_linked_is_read(write, tmp_path):
    write("far/a.txt", "far")
    write("near/b.txt", "near")
    (tmp_path / "near" / "linked").symlink_to(tmp_path / "far")
    assert names(find_files(str(tmp_path / "near")), tmp_path) == ["near/b.txt", "near/linked/a.txt"]
    assert names(find_files(f"{tmp_path}/near/**/a.*"), tmp_path) == ["near/linked/a.txt"]


def test_a_file_that_is_named_twice_is_refused_whatever_its_names(write, tmp_path):
    pair = write("one/a.jsonl", [{"good": "x", "bad": "y"}])
    specs = [(pair, tmp_path / "one" / ".." / "one" / "a.jsonl"), (pair, pair), (pair, tmp_path / "one")]
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "b.jsonl").symlink_to(pair)
    os.link(pair, tmp_path / "two" / "c.jsonl")
    for some in (*specs, [tmp_path / "two"], [f"{tmp_path}/two/*"]):
        for read in (find_files, read_records, read_questions):
            with pytest.raises(DataError, match=r"is named twice|is the same file as"):
                read([str(spec) for spec in some])


def test_many_files_are_looked_at_once_each(tmp_path, monkeypatch):
    for index in range(2000):
        (tmp_path / f"{index:04}.txt").write_text(f"text {index}")
    looked = []
    monkeypatch.setattr(files, "identity", lambda path: looked.append(path) or (0, len(looked)))
    assert len(label_files(find_files(str(tmp_path)))) == 2000
    assert len(looked) <= 2050


COMPRESSED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
COMPRESSED[".zst"] = lambda data: pa.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize("ending", COMPRESSED)
def test_a_compressed_file_is_read_and_a_damaged_one_named(write, ending):
    data = b"".join(b'{"text": "%d"}\n' % index for index in range(100))
    assert [r.text for r in read_records(str(write(f"a.JSONL{ending.upper()}", COMPRESSED[ending](data))))][98:] == [
        "98",
        "99",
    ]
    for broken in (COMPRESSED[ending](data)[:-20], b"no such thing"):
        path = write(f"b.jsonl{ending}", broken)
        with pytest.raises(DataError, match="is damaged"):
            list(read_records(str(path)))


def test_an_array_of_objects_is_read_where_it_is_named_and_never_as_prose(write, tmp_path):
    path = write("a.json", json.dumps([{"text": "one"}, {"text": "two", "id": 5}], indent=1))
    assert [(record.text, record.id) for record in read_records(str(path))] == [("one", "a.json:1"), ("two", "5")]
    assert [record.text for record in read_records(f"{tmp_path}/*.json")] == ["one", "two"]
    for content in ('{"text": "one"}\n{"text": "two"}', '{"text": "one"}', "[1]", "[]", "prose"):
        with pytest.raises(DataError, match=r"b\.json"):
            list(read_records(str(write("b.json", content))))
    with pytest.raises(DataError, match=r"name it \.json"):
        list(read_records(str(write("c.jsonl", '[\n{"text": "one"}\n]'))))


def test_a_name_with_a_tilde_is_a_file_or_nothing(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no such file or folder: ~nobody\.txt"):
        find_files("~nobody.txt")
    write("~nobody.txt", "text")
    assert [path.name for path in find_files("~nobody.txt")] == ["~nobody.txt"]
    monkeypatch.setenv("HOME", str(tmp_path))
    write("mine.txt", "text")
    assert find_files("~/mine.txt") == [tmp_path / "mine.txt"]


def test_a_path_that_cannot_be_is_an_error_with_words(tmp_path):
    for spec in ("x" * 5000, f"{tmp_path}/a\0b"):
        with pytest.raises(DataError, match="cannot be read"):
            find_files(spec)


def test_labels_differ_for_files_named_in_different_ways(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("x/a.txt", "one")
    write("y/a.txt", "two")
    assert label_files(find_files(["x/a.txt", f"{tmp_path}/y"])) == ["x/a.txt", "y/a.txt"]
