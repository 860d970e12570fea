"""Large data is read and encoded in shards by several processes: the same corpus, whatever is killed on the way."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from thetahat.core.errors import ConfigError, DataError, DiskFullError, OutOfMemoryError
from thetahat.core.work import phases, pool, room
from thetahat.data.config import DataConfig, SourceConfig
from thetahat.data.corpus import build, shards
from thetahat.data.corpus.corpus import SCHEMAS
from thetahat.data.corpus.sample import sample_of
from thetahat.data.corpus.tables import NUMBERS
from thetahat.data.read.bad import tell_skipped
from thetahat.data.read.shards import make, shelf
from thetahat.data.read.source import divide
from thetahat.data.tokens.tokenizer import train_tokenizer

WORDS = ["to", "be", "or", "not", "that", "is", "question", "whether", "nobler", "caf\u00e9", "\u4e2d\u6587"]
SMALL = 3_000  # bytes


def text_of(draw):
    return " ".join(draw.choices(WORDS, k=draw.randint(1, 60)))


@pytest.fixture(scope="module")
def tokenizer():
    draw = random.Random(0)
    return train_tokenizer([text_of(draw) for _ in range(200)], 400)


@pytest.fixture
def small(monkeypatch):
    """Shards of so few bytes that a test has many, made in this process."""
    monkeypatch.setenv("THETAHAT_WORKERS", "1")
    monkeypatch.setattr(shards, "SHARD_BYTES", SMALL)
    monkeypatch.setattr(shelf, "SHARD_BYTES", SMALL)
    monkeypatch.setattr(make, "SHARD_BYTES", SMALL)


def write(path, number=100, seed=1):
    draw = random.Random(seed)
    lines = [{"text": text_of(draw), "id": index // 3, "source": draw.choice("ab")} for index in range(number)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return lines


def corpora(config, tokenizer, cache):
    return [build.build_corpus(records, tokenizer, {"part": "x"}, cache) for records in divide(config) if records]


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    assert ours.fingerprint == theirs.fingerprint
    for table, schema in SCHEMAS.items():
        for name in schema.names:
            key = f"{table}.{name}"
            if key in NUMBERS:
                np.testing.assert_array_equal(ours.column[key], theirs.column[key], key)
            else:
                assert ours.tables[table][name].to_pylist() == theirs.tables[table][name].to_pylist(), key


@pytest.mark.parametrize("held_out", ["hash:0.2", "tail:0.1", "none"])
def test_shards_make_the_corpus_that_one_pass_makes(tmp_path, tokenizer, small, held_out):
    write(tmp_path / "a.jsonl")
    config = DataConfig(train=str(tmp_path / "a.jsonl"), held_out=held_out, source_weights={"a": 0.5})
    assert all(shards.is_large(records) for records in divide(config) if records)
    ours = corpora(config, tokenizer, tmp_path / "cache")
    theirs = [
        build.build_corpus(list(records), tokenizer, {"part": "x"}, None) for records in divide(config) if records
    ]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert_same(one, other)


def test_a_mixture_is_encoded_in_shards_by_several_processes(tmp_path, tokenizer, small, monkeypatch):
    monkeypatch.setenv("THETAHAT_WORKERS", "2")
    write(tmp_path / "a.jsonl", seed=1)
    write(tmp_path / "b.jsonl", seed=2)
    sources = {name: SourceConfig(path=str(tmp_path / f"{name}.jsonl"), weight=1.0) for name in "ab"}
    records, _ = divide(DataConfig(sources=sources, source_weights={"b": 2.0}))
    assert shards.is_large(records)
    ours = build.build_corpus(records, tokenizer, {"part": "x"}, tmp_path / "cache")
    assert_same(ours, build.build_corpus(list(records), tokenizer, {"part": "x"}, None))


def test_a_file_that_did_not_change_is_not_read_again(tmp_path, small, monkeypatch):
    lines = write(tmp_path / "a.jsonl", 70)
    write(tmp_path / "b.jsonl", 30, seed=2)
    config = DataConfig(train=tuple(str(tmp_path / f"{name}.jsonl") for name in "ab"), held_out="none")
    records, _ = divide(config)
    assert [record.text for record in records][:70] == [line["text"] for line in lines]
    write(tmp_path / "b.jsonl", 31, seed=2)
    made = []
    monkeypatch.setattr(
        shelf, "do_all", lambda function, tasks, *rest: made.extend(tasks) or pool.do_all(function, made, *rest)
    )
    again, _ = divide(config)
    assert len(list(again)) == 101
    assert {source["path"] for task in made for source in task["sources"]} == {str(tmp_path / "b.jsonl")}


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv"])
def test_reading_goes_on_where_it_was_killed(tmp_path, small, monkeypatch, ending):
    """Whatever is there of a file is not made again; a shard that is damaged is."""
    import gzip

    draw = random.Random(5)
    texts = [text_of(draw) for _ in range(80)]
    body = "text\n" + "".join(f'"{one}"\n' for one in texts) if ending == "csv" else ""
    body = body or "".join(f"{json.dumps({'text': one})}\n" for one in texts)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(body.encode()) if ending.endswith("gz") else body.encode())
    config = DataConfig(train=str(path), held_out="none")
    written, publish = [], make._Shard.publish

    def publish_some(shard):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(len(shard.records))
        return publish(shard)

    monkeypatch.setattr(make._Shard, "publish", publish_some)
    with pytest.raises(KeyboardInterrupt):
        list(divide(config)[0])
    kept = sum(written)
    monkeypatch.setattr(make._Shard, "publish", lambda shard: written.append(len(shard.records)) or publish(shard))
    assert [record.text for record in divide(config)[0]] == texts
    assert sum(written[2:]) == len(texts) - kept > 0


def test_encoding_goes_on_where_it_was_killed(tmp_path, tokenizer, small, monkeypatch):
    write(tmp_path / "a.jsonl")
    config = DataConfig(train=str(tmp_path / "a.jsonl"), held_out="none")
    made, encode = [], shards.make

    def make_some(task, told):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(task["name"])
        return encode(task, told)

    monkeypatch.setattr(shards, "make", make_some)
    with pytest.raises(KeyboardInterrupt):
        corpora(config, tokenizer, tmp_path / "cache")
    monkeypatch.setattr(shards, "make", lambda task, told: made.append(task["name"]) or encode(task, told))
    (ours,) = corpora(config, tokenizer, tmp_path / "cache")
    assert len(made) == len(set(made)) > 4
    assert_same(ours, build.build_corpus(list(divide(config)[0]), tokenizer, {"part": "x"}, None))
    assert not list((tmp_path / "cache").glob("*.shards"))


def test_a_bad_record_of_a_shard_is_named_as_in_one_pass(tmp_path, tokenizer, small):
    write(tmp_path / "a.jsonl")
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"text": 3}\n{"text": ""}\n')
    records, _ = divide(DataConfig(train=str(tmp_path / "a.jsonl"), held_out="none"))
    with pytest.raises(
        DataError, match=r"2 records cannot be used:\n.*a.jsonl:101: the text is .*\n.*a.jsonl:102: "
    ) as caught:
        list(records)
    assert "data.on_bad_record=skip" in caught.value.cure
    skipping, _ = divide(DataConfig(train=str(tmp_path / "a.jsonl"), held_out="none", on_bad_record="skip"))
    assert len(build.build_corpus(skipping, tokenizer, {"part": "x"}, tmp_path / "cache").documents) == 100


def test_what_was_left_out_is_said_of_a_corpus_in_the_cache(tmp_path, tokenizer, caplog):
    write(tmp_path / "a.jsonl", 5)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"text": 3}\n')
    config = DataConfig(train=str(tmp_path / "a.jsonl"), held_out="none", on_bad_record="skip")
    for _ in range(2):  # as in two processes
        tell_skipped.cache_clear()
        caplog.clear()
        build.build_corpus(divide(config)[0], tokenizer, {"part": "x"}, tmp_path / "cache")
        assert "1 record left out by data.on_bad_record=skip" in caplog.text
        assert "a.jsonl:6" in caplog.text


def test_a_sample_does_not_depend_on_where_its_records_stand(tmp_path):
    lines = write(tmp_path / "a.jsonl", 300)
    (tmp_path / "b.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in reversed(lines)))
    ours, theirs = (
        sample_of(divide(DataConfig(train=str(tmp_path / f"{name}.jsonl"), held_out="none"))[0], 5_000) for name in "ab"
    )
    assert sorted(ours.texts) == sorted(theirs.texts)
    assert 5_000 <= ours.num_bytes < 6_000
    assert ours.num_bytes == sum(len(text.encode()) for text in ours.texts)
    assert "data.tokenizer_bytes=5000" in str(ours)
    everything = sample_of(divide(DataConfig(train=str(tmp_path / "a.jsonl"), held_out="none"))[0], 10**9)
    assert [*everything.texts] == [line["text"] for line in lines]


def test_the_held_out_part_of_a_large_document_is_in_no_sample(tmp_path):
    (tmp_path / "a.txt").write_text("a" * 900 + "b" * 100)
    train, _ = divide(DataConfig(train=str(tmp_path / "a.txt"), held_out="tail:0.1"))
    assert "b" not in "".join(sample_of(train, 950).texts)


def test_too_little_room_is_said_before_it_is_used(tmp_path, monkeypatch):
    with pytest.raises(DiskFullError, match=r"a copy takes about .* are free") as caught:
        room.check_room(tmp_path / "corpora", 1 << 60, "a copy")
    assert "thetahat cache --clean" in caught.value.cure


@pytest.mark.parametrize(
    ("said", "given", "expected"),
    [
        ("200000 100000", None, 2),
        ("150000 100000", None, 2),
        ("5000 100000", None, 1),
        ("max 100000", None, 64),
        ("200000 100000", "5", 5),
    ],
)
def test_there_are_as_many_workers_as_cores_or_as_are_typed(tmp_path, monkeypatch, said, given, expected):
    (tmp_path / "cpu.max").write_text(said)
    monkeypatch.setattr(pool, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    monkeypatch.delenv("THETAHAT_WORKERS", raising=False)
    if given:
        monkeypatch.setenv("THETAHAT_WORKERS", given)
    assert pool.num_workers() == expected


@pytest.mark.parametrize("given", ["0", "-1", "two", ""])
def test_a_number_of_workers_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("THETAHAT_WORKERS", given)
    with pytest.raises(ConfigError, match="THETAHAT_WORKERS="):
        pool.num_workers()


def test_a_worker_that_is_killed_is_told_from_an_error(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    tasks = [{"signal": None}, {"signal": 9}]
    with pytest.raises(OutOfMemoryError, match="signal 9"):
        list(pool.do_all("tasks:end", tasks, lambda _: None, 2))
    with pytest.raises(RuntimeError, match="No module named 'nowhere'"):
        list(pool.do_all("nowhere:end", tasks, lambda _: None, 2))


def test_workers_end_when_who_gave_them_work_is_killed():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    code = "from thetahat.core.work.pool import do_all\nlist(do_all('tasks:wait', [{}, {}], print, 2))"
    with subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        workers = [int(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while any(map(_is_there, workers)):
        assert time.monotonic() < until
        time.sleep(0.05)


def _is_there(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_the_inner_phase_is_the_current_one():
    assert phases.current() is None
    with phases.phase("outer"), phases.phase("inner", 10) as inner:
        inner.advance(4)
        assert (phases.current().name, phases.current().done) == ("inner", 4)
    assert phases.current() is None
