"""What is kept of data is listed, checked and removed; what is in use stays."""

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thetahat.cli.main import app
from thetahat.core.errors import DamagedError
from thetahat.data.config import DataConfig
from thetahat.data.corpus.build import build_corpus
from thetahat.data.read.cache import cache_folder, default_cache, waiting_for
from thetahat.data.read.source import divide
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.verbs import cache


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A cache with one small dataset in it."""
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "text {index}"}}\n' for index in range(20)))
    train, _ = divide(DataConfig(train=str(tmp_path / "a.jsonl"), held_out="none"))
    build_corpus(train, train_tokenizer(["text"], 300), {"part": "train"}, cache_folder("corpora"))
    return tmp_path / "a.jsonl"


def run(*words):
    return CliRunner().invoke(app, ["cache", *words])


def test_the_cache_says_what_it_holds_and_of_what(prepared):
    found = {entry.kind: entry for entry in cache.entries()}
    assert {"records", "corpora"} <= found.keys()
    assert found["corpora"].made_of == str(prepared)
    assert found["records"].made_of == str(prepared.parent)
    on_disk = sum(file.stat().st_size for file in Path(found["corpora"].path).rglob("*") if file.is_file())
    assert found["corpora"].num_bytes == on_disk > 0
    told = json.loads(run("--json").stdout.splitlines()[-1])
    assert told["cache"] == str(default_cache())
    assert {entry["kind"] for entry in told["entries"]} == found.keys()


def test_damage_is_found_byte_by_byte(prepared):
    assert run("--verify").exit_code == 0
    (tokens,) = (default_cache() / "corpora").glob("*/tokens.bin")
    data = bytearray(tokens.read_bytes())
    data[3] ^= 1
    tokens.write_bytes(data)
    result = run("--verify")
    assert isinstance(result.exception, DamagedError)
    assert str(tokens.parent) in str(result.exception)


def test_what_was_not_used_for_long_is_removed_and_what_is_in_use_stays(prepared):
    (corpus,) = (entry for entry in cache.entries() if entry.kind == "corpora")
    about = default_cache() / "about" / f"corpora-{corpus.name}.json"
    long_ago = time.time() - 40 * 86_400
    for path in (Path(corpus.path), about):
        os.utime(path, (long_ago, long_ago))
    with waiting_for(Path(corpus.path).with_name(f".{corpus.name}.lock")):
        removed, busy = cache.clean(older_than=30.0)
        assert ([one.name for one in removed], [one.name for one in busy]) == ([], [corpus.name])
    removed, _ = cache.clean(older_than=30.0)
    assert [one.name for one in removed] == [corpus.name]
    assert not Path(corpus.path).exists()
    assert not about.exists()
    assert run("--clean").exit_code == 0
    assert not cache.entries()


def test_what_was_used_last_stays_longest(prepared):
    entries = cache.entries()
    most = sum(entry.num_bytes for entry in entries) - 1
    removed, _ = cache.clean(down_to=most)
    assert [one.path for one in removed] == [entries[-1].path]


def test_standard_input_is_removed_only_when_it_is_named(prepared):
    path = cache_folder(cache.INPUT) / "0123.txt"
    path.write_text("cannot be made again")
    run("--clean")
    assert path.exists()
    run("--clean", "--all")
    assert not path.exists()


@pytest.mark.parametrize("words", [["--older-than", "3"], ["--all"], ["--clean", "--down-to", "-1"]])
def test_options_that_mean_nothing_are_refused(words):
    assert run(*words).exception.exit_code == 2
