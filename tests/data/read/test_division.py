"""No prompt and no document is on both sides of a division, and what is alike is counted."""

import itertools
import json
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from thetahat.data.config import DataConfig
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.corpus import shared_documents
from thetahat.data.read.question import read_questions
from thetahat.data.read.shards.kept import digest_of_key
from thetahat.data.read.source import divide
from thetahat.data.read.texts import read_records


def dialogue(question, answer, *, system=None, before=()):
    messages = [{"role": "system", "content": system}] if system else []
    turns = [*before, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages + turns}


PLACES = itertools.count()  # a folder for each example, so that none looks through the shards of all
RECORD = st.one_of(
    st.builds(lambda n: {"text": f"text {n}"}, st.integers(0, 30)),
    st.builds(lambda n, m: {"prompt": f"ask {n}", "completion": f"say {m}"}, st.integers(0, 9), st.integers(0, 9)),
    st.builds(lambda n, m: dialogue(f"ask {n}", f"say {m}"), st.integers(0, 9), st.integers(0, 9)),
    st.builds(lambda n, m: {"text": f"page {m}", "id": n}, st.integers(0, 5), st.integers(0, 99)),
)


@given(st.lists(RECORD, min_size=2, max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_prompt_and_no_document_is_on_both_sides(write, records, shuffling):
    def sides(lines):
        path = write(f"{next(PLACES)}/some.jsonl", lines)
        config = DataConfig(train=str(path), held_out="hash:0.4")
        parts = [part.division.is_held_out for part in divide(config)]
        np.testing.assert_array_equal(*parts)
        return dict(zip([record.canonical for record in read_records(str(path))], parts[0].tolist(), strict=True))

    found = sides(records)
    seen = defaultdict(set)
    for record in read_records(str(write("some.jsonl", records))):
        for name in (("key", record.key), ("document", record.document)):
            seen[name].add(found[record.canonical])
    assert all(len(both) == 1 for both in seen.values())
    shuffled = records[:]
    shuffling.shuffle(shuffled)
    assert sides(shuffled) == found


def test_a_record_that_is_joined_to_no_other_decides_for_itself(write):
    path = write("a.jsonl", [{"text": f"text {n}", "id": n // 2 if n < 100 else n} for n in range(400)])
    is_held_out = divide(DataConfig(train=str(path), held_out="hash:0.25"))[0].division.is_held_out
    alone = [digest_of_key(f"text {n}") < 1 << 62 for n in range(100, 400)]
    assert is_held_out[100:].tolist() == alone
    assert 0.1 < is_held_out[:100].mean() < 0.45  # joined pairs are held out no more often than others


def test_a_dialogue_falls_where_what_is_asked_first_falls(write):
    first = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    lines = [
        dialogue("Why?", "So.", before=first),
        dialogue("Hello", "Good day"),
        {"prompt": "Hello", "completion": "x"},
        dialogue("Hello", "Ahoy", system="You are a pirate."),
    ]
    records = list(read_records(str(write("a.jsonl", lines))))
    assert [record.key for record in records] == ["Hello"] * 3 + ["You are a pirate.\nHello"]
    assert {record.folded for record in records} == {"hello"}
    begun = dialogue("Well?", "So.", before=[{"role": "assistant", "content": "What is it?"}])
    assert [record.key for record in read_records(str(write("b.jsonl", [begun])))] == ["What is it?"]


def test_ids_belong_to_files(write):
    for name in "ab":
        write(f"x/{name}.jsonl", [{"text": f"{name} {n}", "id": n // 2} for n in range(6)])
        write(f"y/{name}.jsonl", [{"good": f"{name} {n}", "bad": "x", "id": n} for n in range(6)])
    records = list(read_records(str(write("x/c.txt", "text").parent)))
    assert len({record.id for record in records}) == 13
    assert sorted({record.document for record in records}) == [
        *(f"{name}.jsonl#{n}" for name in "ab" for n in range(3)),
        "c.txt:1",
    ]
    questions = read_questions(str(write("y/a.jsonl", [{"good": "x", "bad": "y", "id": 0}]).parent))
    assert len({question.record.document for question in questions}) == len(questions)


def test_the_tail_begins_with_a_document(write):
    lines = [{"text": "x" * 10, "id": n // 7} for n in range(70)]
    train, held_out = divide(DataConfig(train=str(write("a.jsonl", lines)), held_out="tail:0.25"))
    ours, theirs = ({record.document for record in part} for part in (train, held_out))
    assert not ours & theirs
    assert (len(ours), len(theirs)) == (7, 3)
    mixed = [{"text": "x" * 10, "id": n % 2} for n in range(20)]
    train, held_out = divide(DataConfig(train=str(write("b.jsonl", mixed)), held_out="tail:0.25"))
    assert len(list(held_out)) == 5


@pytest.mark.parametrize("by", ["digest", "folded", "document"])
def test_what_is_on_both_sides_is_found(write, byte_tokenizer, by):
    ours = [
        {"text": "To be"},
        {"text": "Not  TO be"},
        {"text": "Other", "id": 3},
        {"prompt": "Who?", "completion": "I"},
    ]
    theirs = [
        {"text": "To be"},
        {"text": "not to be"},
        {"text": "None", "id": 3},
        {"prompt": "who? ", "completion": "-"},
    ]
    parts = [
        build_corpus(list(read_records(str(write("a.jsonl", lines)))), byte_tokenizer, {}, None)
        for lines in (ours, theirs)
    ]
    expected = {
        "digest": ["a.jsonl:1"],
        "folded": ["a.jsonl:1", "a.jsonl:2", "a.jsonl:4"],
        "document": ["a.jsonl:1", "a.jsonl:2", "3", "a.jsonl:4"],
    }
    assert shared_documents(*parts, by) == expected[by]
    assert json.dumps(shared_documents(*parts[::-1])) == json.dumps(expected["digest"])
