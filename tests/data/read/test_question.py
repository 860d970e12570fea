"""Questions as they lie in files: every format of the field, and errors that name the line."""

import gzip
import json

import pytest

from tests.data.read.tables import write_parquet
from thetahat.core.errors import ConfigError, DataError
from thetahat.data.config import ReadOptions
from thetahat.data.read.files import say_once
from thetahat.data.read.prompt import read_prompts
from thetahat.data.read.question import parse_question, read_questions
from thetahat.data.read.texts import read_records

HELLASWAG = {"ind": 4, "ctx_a": "A", "ctx": "A man sits. he", "endings": ["is up", "is out", "runs", "eats"]}
KNOWN = [
    ({"good": "She sings.", "bad": "She sing."}, ("", ""), ("She sings.", "She sing."), 0),
    ({"query": "It rains, so", "choices": ["a", "b"], "gold": 1}, ("It rains, so",) * 2, ("a", "b"), 1),
    (HELLASWAG | {"label": "3"}, ("A man sits. he",) * 4, ("is up", "is out", "runs", "eats"), 3),
    ({"context_options": ["x is", "y is"], "continuation": "big.", "gold": 0}, ("x is", "y is"), ("big.", "big."), 0),
    ({"context": "I like", "continuation": "tea"}, ("I like",), ("tea",), 0),
    ({"query": "", "choices": ["a", "b"], "gold": 0}, ("", ""), ("a", "b"), 0),
]


def parsed(fields):
    return parse_question(fields, "file:7", id="file:7", source="file")


@pytest.mark.parametrize(("fields", "contexts", "choices", "gold"), KNOWN)
def test_every_format_is_a_question(fields, contexts, choices, gold):
    found = parsed(fields)
    assert (found.contexts, found.choices, found.gold) == (contexts, choices, gold)
    assert (found.record.id, found.record.source) == ("file:7", "file")
    named = parsed(fields | {"id": 12, "source": "mine"})
    assert (named.record.id, named.record.document, named.record.source) == ("12", "file#12", "mine")
    assert named.record.canonical == found.record.canonical


WRONG = [
    ({"good": "a"}, "its keys: 'good'"),
    ({"text": "a"}, "its keys: 'text'"),
    ({"good": "a", "bad": "b", "query": "c"}, "no question of a known format"),
    ({"query": "a", "choices": ["b", "c"], "gold": 2}, "the right choice is 2"),
    ({"query": "a", "choices": ["b", "c"], "gold": -1}, "the right choice is -1"),
    ({"query": "a", "choices": ["b", "c"], "gold": True}, "true or false"),
    ({"query": "a", "choices": ["b", "c"], "label": ""}, "an empty string"),
    ({"query": "a", "choices": ["b"], "gold": 0}, "choices: 1"),
    ({"query": "a", "choices": "bc", "gold": 0}, "choices: a string"),
    ({"query": "a", "choices": ["b", ""], "gold": 0}, "choices[1] is empty"),
    ({"query": 1, "choices": ["b", "c"], "gold": 0}, "the query is a number"),
    ({"query": "a", "ctx": "a", "choices": ["b", "c"], "gold": 0}, "another name"),
    ({"context": "a", "continuation": ""}, "the continuation is empty"),
    ({"good": "a", "bad": "\ud800"}, "not JSON: half a surrogate pair"),
    (["a"], "the line holds a list"),
]


@pytest.mark.parametrize(("fields", "words"), WRONG)
def test_what_is_no_question_is_an_error_that_names_the_line(write, fields, words):
    path = write("file.jsonl", [KNOWN[0][0], fields])
    with pytest.raises(DataError) as raised:
        read_questions(str(path))
    assert str(raised.value).startswith(f"{path}:2: ")
    assert words in str(raised.value)


def test_files_are_read_in_order_and_ids_are_made_different(tmp_path):
    pair = {"good": "a", "bad": "b"}
    (tmp_path / "one.jsonl").write_text(f"\n{json.dumps(pair)}\n{json.dumps(pair | {'id': 'x'})}\n")
    with gzip.open(tmp_path / "two.jsonl.gz", "wt") as file:
        file.write(json.dumps(pair | {"id": "x"}) + "\n")
    found = read_questions(str(tmp_path))
    assert [each.record.id for each in found] == ["one.jsonl:2", "x", "x~2"]
    assert [each.record.document for each in found] == ["one.jsonl:2", "one.jsonl#x", "two.jsonl.gz#x"]
    (tmp_path / "two.jsonl.gz").unlink()
    (tmp_path / "one.jsonl").write_text(json.dumps(pair) + "\n{\n")
    with pytest.raises(DataError, match=r"one\.jsonl:2: not JSON"):
        read_questions(str(tmp_path))


def test_plain_text_holds_no_question(tmp_path):
    (tmp_path / "one.txt").write_text("a")
    with pytest.raises(DataError, match="plain text"):
        read_questions(str(tmp_path))


def test_questions_under_other_names_are_read_as_data_columns_says(write, tmp_path):
    own = {"query": "two and two?", "choices": ["4", "5"], "gold": 0, "id": "q1"}
    other = {"question": own["query"], "options": own["choices"], "answer": 0, "nr": "q1", "query": "not this"}
    columns = {"query": "question", "choices": "options", "gold": "answer", "id": "nr"}
    (expected,) = read_questions(str(write("a.jsonl", [own])))
    for path in (write("b.jsonl", [other]), write_parquet(tmp_path / "c.parquet", [other])):
        (found,) = read_questions(str(path), columns=columns)
        assert (found.contexts, found.choices, found.gold) == (expected.contexts, expected.choices, expected.gold)
        assert found.record.digest == expected.record.digest
        assert found.record.id == "q1"
        with pytest.raises(DataError, match="no question of a known format"):
            read_questions(str(path))


def test_columns_of_training_do_not_keep_a_file_with_its_own_names_from_being_read(write, caplog):
    say_once.cache_clear()
    (found,) = read_questions(
        str(write("a.jsonl", [{"good": "a", "bad": "b"}])), columns={"good": "right", "prompt": "x"}
    )
    assert found.choices == ("a", "b")
    assert "questions without 'right', which data.columns names, are read as they are" in caplog.text


def test_names_of_questions_are_refused_where_records_are_read(write):
    with pytest.raises(ConfigError, match=r"data\.columns\.query has no effect: .*thetahat choose"):
        list(read_records(str(write("a.jsonl", [{"text": "x"}])), ReadOptions(columns={"query": "text"})))


TALK = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("fields", "columns", "text"),
    [
        ({"question": "Q", "n": 1}, {"prompt": "question", "completion": "answer"}, "Q"),
        ({"question": "Q", "prompt": "other"}, {"prompt": "question"}, "Q"),
        ({"question": "Q", "messages": TALK}, {"prompt": "question"}, "Q"),
        ({"prompt": "Q", "messages": TALK}, {"prompt": "prompt"}, "Q"),
        ({"prompt": "Q"}, {"prompt": "question"}, "Q"),
        ({"talk": TALK, "prompt": "other"}, {"messages": "talk"}, None),
        ({"messages": TALK, "prompt": "other"}, {"prompt": ""}, None),
    ],
)
def test_a_prompt_under_another_name_is_read_as_data_columns_says_and_the_line_is_kept(write, fields, columns, text):
    (found,) = read_prompts(str(write("a.jsonl", [fields])), columns=columns)
    assert found.fields == fields
    if text is None:
        assert [message.fields["content"] for message in found.dialogue.messages][:1] == ["Hi"]
    else:
        assert (found.text, found.dialogue) == (text, None)
