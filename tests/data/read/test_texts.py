"""Text is parsed once: what was parsed is kept, and known again by the size, the times and the digest of its files."""

import gzip
import json
import os
import time

import numpy as np
import pytest

from thetahat.core import store
from thetahat.core.errors import DataError
from thetahat.data.config import DataConfig, ReadOptions
from thetahat.data.corpus.build import build_corpus
from thetahat.data.read import manifest
from thetahat.data.read.cache import default_cache
from thetahat.data.read.files import find_files
from thetahat.data.read.prompt import read_prompts
from thetahat.data.read.shards import kept, parse
from thetahat.data.read.source import divide
from thetahat.data.read.texts import Texts, read_records

MANY = [{"text": f"text {index} \u00e9" * (index % 5 + 1), "id": index // 2, "weight": 0.5} for index in range(40)]
DIALOGUE = {
    "messages": [
        {"role": "user", "content": "Two plus two?", "name": "me", "score": [10**30, 1.5, None, {"a": True}]},
        {"role": "assistant", "content": "Four.", "weight": 0.1},
        {"role": "user", "content": "And one more?"},
    ],
    "answers": ["5"],
}


@pytest.fixture
def parsed(monkeypatch):
    """The files that are parsed, in order."""
    seen = []
    read = parse.read_objects
    monkeypatch.setattr(
        parse, "read_objects", lambda path, *rest, **how: seen.append(path.name) or read(path, *rest, **how)
    )
    return seen


@pytest.fixture
def hashed(monkeypatch):
    seen = []
    digest = store.digest_file
    monkeypatch.setattr(
        manifest.store, "digest_file", lambda path, *told: seen.append(path.name) or digest(path, *told)
    )
    return seen


def corpora(config, tokenizer):
    parts = divide(config)
    return [
        build_corpus(part, tokenizer, {"part": name}, default_cache() / "corpora")
        for part, name in zip(parts, ("train", "held-out"), strict=True)
        if part is not None
    ]


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_what_is_kept_is_what_was_parsed(write, monkeypatch, size):
    monkeypatch.setattr(kept, "BLOCK_BYTES", size)
    write("x/a.jsonl", [*MANY, DIALOGUE, {"prompt": "p", "completion": "c"}])
    write("x/b.txt.gz", gzip.compress(b"one|two\n|three"))
    files = find_files(str(write("x/c.txt", "last").parent))
    found, streamed = (
        list(Texts(files, ReadOptions("|"))),
        list(read_records([str(path) for path in files], ReadOptions("|"))),
    )
    assert found == streamed
    assert [record.canonical for record in found] == [record.canonical for record in streamed]
    sizes = [len(record.canonical.encode()) for record in found]
    np.testing.assert_array_equal(Texts(files, ReadOptions("|")).index.sizes, sizes)


@pytest.mark.parametrize("held_out", ["hash:0.3", "tail:0.2", "none", "elsewhere.jsonl"])
def test_text_is_parsed_once_and_not_at_all_where_it_is_cached(write, byte_tokenizer, parsed, held_out):
    path = write("a.jsonl", MANY)
    other = write("elsewhere.jsonl", MANY[:3])
    config = DataConfig(train=str(path), held_out=str(other) if held_out == other.name else held_out)
    train, _ = divide(config)
    assert sum(1 for _ in train) == sum(1 for _ in train)  # a tokenizer and labels
    first = corpora(config, byte_tokenizer)
    assert parsed == ["a.jsonl", *(["elsewhere.jsonl"] if held_out == other.name else [])]
    parsed.clear()
    again = corpora(config, byte_tokenizer)
    assert [corpus.fingerprint for corpus in again] == [corpus.fingerprint for corpus in first]
    assert parsed == []


def test_a_cached_corpus_needs_no_copy_of_the_text(write, byte_tokenizer, parsed):
    config = DataConfig(train=str(write("a.jsonl", MANY)))
    corpora(config, byte_tokenizer)
    for folder in (default_cache() / "records").iterdir():
        store.remove(folder) if folder.is_dir() else folder.unlink()
    parsed.clear()
    corpora(config, byte_tokenizer)
    assert parsed == []


def test_the_fingerprint_is_of_the_records_however_they_are_read(write, byte_tokenizer):
    path = write("a.jsonl", MANY)
    first = build_corpus(Texts([path]), byte_tokenizer, {}, default_cache() / "corpora")
    path.write_text(path.read_text().replace(", ", " , "))
    assert first.fingerprint == build_corpus(Texts([path]), byte_tokenizer, {}, default_cache()).fingerprint
    assert first.fingerprint == build_corpus(list(read_records(str(path))), byte_tokenizer, {}, None).fingerprint


def test_a_changed_text_is_read_anew_and_one_that_came_back_is_known(write, byte_tokenizer, parsed):
    path = write("a.jsonl", MANY)
    before = path.read_text()
    config = DataConfig(train=str(path))
    first = corpora(config, byte_tokenizer)[0].fingerprint
    path.write_text(before.replace("text 7", "text 8"))  # of the same size
    assert corpora(config, byte_tokenizer)[0].fingerprint != first
    parsed.clear()
    path.write_text(before)
    assert corpora(config, byte_tokenizer)[0].fingerprint == first
    assert parsed == []


def test_a_file_is_read_for_its_digest_only_if_its_size_or_times_changed(write, monkeypatch, hashed, tmp_path):
    paths = [write(f"{name}.txt", name) for name in "abc"]
    later = time.time_ns() + 10 * manifest._TICK
    monkeypatch.setattr(manifest.time, "time_ns", lambda: later)
    first = manifest.digests_of(paths, tmp_path / "files")
    hashed.clear()
    assert manifest.digests_of(paths, tmp_path / "files") == first
    assert hashed == []
    before = paths[1].stat()
    paths[1].write_text("B")
    os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))  # as rsync and tar set it
    assert manifest.digests_of(paths, tmp_path / "files") != first
    assert hashed == ["b.txt"]


def test_a_file_that_has_just_changed_is_not_known_by_its_times(write, hashed, tmp_path):
    path = write("a.txt", "a")
    for _ in range(2):
        manifest.digests_of([path], tmp_path / "files")
    assert hashed == ["a.txt"] * 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', '{"x": [1]}'])
def test_a_torn_manifest_is_made_again(write, monkeypatch, tmp_path, content):
    path = write("a.txt", "a")
    monkeypatch.setattr(manifest, "_TICK", -(10**12))
    (expected,) = manifest.digests_of([path], tmp_path / "files")
    for found in (tmp_path / "files").iterdir():
        found.write_text(content)
    assert manifest.digests_of([path], tmp_path / "files") == [expected]


def test_text_that_changes_while_it_is_parsed_is_refused(write, monkeypatch):
    path = write("a.jsonl", MANY)
    read = parse.parse_records

    def changing(*arguments, **names):
        with path.open("a") as file:
            file.write(json.dumps(MANY[0]) + "\n")
        monkeypatch.setattr(parse, "parse_records", read)
        return read(*arguments, **names)

    monkeypatch.setattr(parse, "parse_records", changing)
    with pytest.raises(DataError, match="changed while it was read"):
        list(Texts([path]))
    assert list(Texts([path]))[-1].document == "a.jsonl#0"


def test_a_damaged_copy_is_named_and_a_torn_one_made_again(write):
    path = write("a.jsonl", MANY)
    expected = list(Texts([path]))
    (folder,) = (found.parent for found in (default_cache() / "records").rglob("records.bin"))
    data = bytearray((folder / "records.bin").read_bytes())
    data[30] ^= 1
    (folder / "records.bin").write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        list(Texts([path]))
    (folder / "records.bin").write_bytes(data[:-1])
    assert list(Texts([path])) == expected


def test_files_of_the_same_bytes_are_named(write, caplog):
    paths = [write(name, MANY) for name in ("a.jsonl", "b.jsonl")]
    assert len(list(Texts([*paths, write("c.txt", "other")]))) == 2 * len(MANY) + 1
    assert f"1 files hold the same bytes as others, and are read too: {paths[1]} as {paths[0]}" in caplog.text


def test_each_line_of_a_text_is_a_prompt(write, caplog):
    path = write("t.txt", "Once upon\r\n\n  \na time \n")
    with caplog.at_level("INFO", "thetahat"):
        found = read_prompts(str(path))
    assert [(one.text, one.where) for one in found] == [("Once upon", f"{path}:1"), ("a time ", f"{path}:4")]
    assert f"{path}: each line is a prompt" in caplog.text
