import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from thetahat.core import store
from thetahat.core.errors import DataError, ModelError
from thetahat.core.layout import LABEL, PAIR, STREAM, WHOLE
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.corpus import SCHEMAS, shared_documents
from thetahat.data.corpus.encode import Encoding
from thetahat.data.corpus.tables import NUMBERS
from thetahat.data.read.cache import default_cache
from thetahat.data.read.record import Record
from thetahat.data.tokens.tokenizer import train_tokenizer

TEXTS = ["To be, or not to be", "caf\u00e9 \U0001f600", "<|endoftext|>", " ", "that is the question " * 40]


def records_of(texts, **fields):
    return [Record(text=text, id=f"{i}", document=f"{i}", source="test", **fields) for i, text in enumerate(texts)]


RECORDS = records_of(TEXTS)


def assert_same_tables(ours, theirs):
    """To the last value, whether they are mapped or in memory."""
    for table, schema in SCHEMAS.items():
        for name in schema.names:
            key = f"{table}.{name}"
            if key in NUMBERS:
                np.testing.assert_array_equal(ours.column[key], theirs.column[key], key)
                assert ours.column[key].dtype == theirs.column[key].dtype == NUMBERS[key]
            else:
                assert ours.tables[table][name].to_pylist() == theirs.tables[table][name].to_pylist(), key


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.mark.parametrize("is_cached", [True, False])
def test_a_document_comes_back_from_the_corpus(tokenizer, tmp_path, is_cached):
    corpus = build_corpus(RECORDS, tokenizer, {}, tmp_path if is_cached else None)
    end = tokenizer.frames.text.before[0]
    for index, record in enumerate(RECORDS):
        first, *ids, last = corpus.span(index).tolist()
        assert (first, last, tokenizer.decode(ids)) == (end, end, record.text)
        assert corpus.lengths[index] == len(ids) + 2
        assert corpus.column["parts.num_bytes"][index] == len(record.text.encode()) == corpus.token_bytes[ids].sum()
        part = corpus.describe([index])[0]
        assert (part.id, part.document, part.source, part.name, part.weight) == (
            record.id,
            record.id,
            "test",
            "document",
            1.0,
        )
        assert corpus.part_tokens[index] == len(ids) + 1
    assert corpus.num_documents == len(TEXTS)
    assert corpus.num_bytes == sum(len(text.encode()) for text in TEXTS)
    assert corpus.num_tokens == sum(corpus.lengths) - len(TEXTS)


def test_a_corpus_is_read_only(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        build_corpus(RECORDS, tokenizer, {}, tmp_path).tokens[0] = 1


@given(st.lists(st.text(min_size=1, max_size=50), min_size=1, max_size=20), st.sampled_from([1, 7, 1 << 22]))
def test_a_corpus_does_not_depend_on_how_its_texts_are_batched(tokenizer, texts, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thetahat.data.corpus.rows._BATCH_CHARACTERS", size)
        corpus = build_corpus(records_of(texts), tokenizer, {}, None)
    (expected,) = [np.concatenate([[0, *ids, 0] for ids in tokenizer.encode(texts)])]
    np.testing.assert_array_equal(corpus.tokens, expected)
    assert [corpus.describe([index])[0].id for index in range(len(texts))] == [
        f"{index}" for index in range(len(texts))
    ]


def test_a_large_vocabulary_takes_wider_ids(tokenizer, tmp_path):
    assert build_corpus(RECORDS, tokenizer, {}, tmp_path).tokens.dtype == np.uint16


CHANGES = {
    "one byte": lambda records: [replace(records[0], text="To be, or not to bf"), *records[1:]],
    "the border of two documents": lambda records: [
        replace(records[0], text=TEXTS[0] + "c"),
        replace(records[1], text=TEXTS[1][1:]),
        *records[2:],
    ],
    "an id": lambda records: [replace(records[0], id="x"), *records[1:]],
    "a cluster": lambda records: [replace(records[0], document="x"), *records[1:]],
    "a source": lambda records: [replace(records[0], source="x"), *records[1:]],
    "a weight": lambda records: [replace(records[0], weight=0.5), *records[1:]],
    "the order": lambda records: records[::-1],
    "one more": lambda records: [*records, replace(records[0], id="y")],
    "one less": lambda records: records[:-1],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_cache_is_built_anew_when_the_data_changes(tokenizer, tmp_path, change):
    before = build_corpus(RECORDS, tokenizer, {}, tmp_path)
    after = build_corpus(CHANGES[change](RECORDS), tokenizer, {}, tmp_path)
    fresh = build_corpus(CHANGES[change](RECORDS), tokenizer, {}, None)
    assert before.fingerprint != after.fingerprint == fresh.fingerprint
    np.testing.assert_array_equal(after.tokens, fresh.tokens)
    assert_same_tables(after, fresh)


def test_a_cache_is_built_anew_for_another_tokenizer_or_setting(tokenizer, byte_tokenizer, tmp_path):
    corpora = [
        build_corpus(RECORDS, one, settings, tmp_path)
        for one in (tokenizer, byte_tokenizer)
        for settings in ({}, {"part": "train"}, {"part": "held out"})
    ]
    assert len({corpus.fingerprint for corpus in corpora}) == 6
    assert corpora[0].num_tokens != corpora[3].num_tokens


class Counting:
    """A tokenizer's texts, counted: what is in the cache is not tokenised."""

    def __init__(self, tokenizer, monkeypatch):
        self.num_texts = 0
        tokens = type(tokenizer).tokens

        def counted(this, texts, **kwargs):
            self.num_texts += len(texts)
            return tokens(this, texts, **kwargs)

        monkeypatch.setattr(type(tokenizer), "tokens", counted)


def test_what_is_in_the_cache_is_not_tokenised_again(tokenizer, tmp_path, monkeypatch):
    counting = Counting(tokenizer, monkeypatch)
    first = build_corpus(RECORDS, tokenizer, {"a": "1", "b": "2"}, tmp_path)
    again = build_corpus(iter(RECORDS), tokenizer, {"b": "2", "a": "1"}, tmp_path)
    assert counting.num_texts == len(TEXTS)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert first.documents.equals(again.documents)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << place % 8
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["tokens.bin", "documents.id.bin", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["cut", "delete", "extra", "flip"])
def test_a_torn_cache_is_noticed_and_built_anew(tokenizer, tmp_path, file, damage):
    """A flipped bit of data is found by `store.verify` alone, which reads every byte."""
    good = build_corpus(RECORDS, tokenizer, {}, None)
    for place in random.Random(0).sample(range(10_000), 5):
        build_corpus(RECORDS, tokenizer, {}, tmp_path)
        (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
        path = folder / file
        match damage:
            case "flip":
                flip(path, place)
                with pytest.raises(ModelError):
                    store.verify(folder)
                if file != "MANIFEST.json":
                    store.verify(folder, deep=False)
                    store.remove(folder)
            case "cut":
                path.write_bytes(path.read_bytes()[:-1])
            case "delete":
                path.unlink()
            case "extra":
                (folder / f"{file}.bak").write_bytes(b"x")
        mended = build_corpus(RECORDS, tokenizer, {}, tmp_path)
        np.testing.assert_array_equal(mended.tokens, good.tokens)
        assert_same_tables(mended, good)
        store.verify(folder)


def test_a_build_that_was_killed_leaves_nothing_that_counts(tokenizer, tmp_path, monkeypatch):
    build_corpus(RECORDS, tokenizer, {}, tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    folder.rename(store.partial_name(folder))
    assert build_corpus(RECORDS, tokenizer, {}, tmp_path).num_documents == len(TEXTS)
    assert not list(tmp_path.glob(".*partial"))


class Changing:
    """Records that are others the second time."""

    def __init__(self):
        self.times = 0

    def __iter__(self):
        self.times += 1
        yield from RECORDS if self.times == 1 else RECORDS[::-1]


def test_data_that_changes_under_the_reader_is_noticed(tokenizer, tmp_path):
    with pytest.raises(DataError, match="changed while it was read"):
        build_corpus(Changing(), tokenizer, {}, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_several_that_need_one_corpus_build_it_once(tokenizer, tmp_path, monkeypatch):
    """The lock is held per open file, so threads stand for processes here."""
    counting = Counting(tokenizer, monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        corpora = list(pool.map(lambda _: build_corpus(RECORDS * 20, tokenizer, {}, tmp_path), range(8)))
    assert counting.num_texts == 20 * len(TEXTS)
    assert len({corpus.num_tokens for corpus in corpora}) == 1


def test_data_without_anything_to_learn_is_an_error(tokenizer, tmp_path):
    for cache in (tmp_path, None):
        with pytest.raises(DataError, match="no document"):
            build_corpus([], tokenizer, {}, cache)
        with pytest.raises(DataError, match="weight 0"):
            build_corpus(records_of(TEXTS, weight=0.0), tokenizer, {}, cache)


def test_documents_that_are_in_both_parts_are_found(tokenizer):
    ours = build_corpus(RECORDS, tokenizer, {}, None)
    theirs = build_corpus(records_of(["elsewhere", TEXTS[3], TEXTS[0] + " "]), tokenizer, {}, None)
    assert shared_documents(ours, theirs) == ["3"]
    assert shared_documents(theirs, ours) == ["1"]


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "here"))
    assert default_cache() == tmp_path / "here"
    monkeypatch.delenv("THETAHAT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "thetahat"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "thetahat"


@pytest.mark.parametrize("layout", [STREAM, WHOLE])
def test_of_a_labelled_text_the_text_is_read_where_nothing_asks_for_labels(tokenizer, layout):
    labelled = Record("sea", "a", "a", "s", prompt="the whale answers", is_label=True)
    found = build_corpus([labelled], tokenizer, {}, None, Encoding(layout))
    plain = build_corpus([Record("the whale answers", "a", "a", "s")], tokenizer, {}, None, Encoding(layout))
    assert found.tokens.tolist() == plain.tokens.tolist()
    assert found.tables["parts"].equals(plain.tables["parts"])
    assert "its label is not read" in found.documents["notes"][0].as_py()


def test_where_labels_or_completions_are_asked_a_labelled_text_is_given(tokenizer):
    record = Record("sea", "a", "a", "s", prompt="the whale answers", is_label=True)
    for encoding in (Encoding(LABEL, labels=("land", "sea")), Encoding(PAIR)):
        found = build_corpus([record], tokenizer, {}, None, encoding)
        assert found.tables["parts"]["is_prompt"].to_pylist() == [True, False]
        assert found.documents["notes"][0].as_py() == ""
