"""Records in the forms of others are read as what they are, and it is said how."""

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from thetahat.core.errors import ConfigError, DataError
from thetahat.data.config import COLUMNS, DataConfig, ReadOptions
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.corpus import reading_of
from thetahat.data.read.prompt import parse_prompt
from thetahat.data.read.record import parse_records
from thetahat.data.read.texts import read_records


def read(fields, columns=None):
    (record,) = parse_records(fields, "a.jsonl:1", ReadOptions(columns=columns), id="a", source="a.jsonl")
    return record


def said(role, content, **more):
    return {"role": role, "content": content, **more}


TALK = [said("user", "Where?"), said("assistant", "Here.")]
TURNS = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}]
DIALOGUES = {
    "conversations": ({"conversations": TURNS}, "conversations: human is user, gpt is assistant"),
    "of roles": ({"conversation": TALK}, "conversation"),
    "a struct of lists": ({"messages": {"role": ["user", "assistant"], "content": ["Where?", "Here."]}}, "messages"),
    "from in messages": ({"messages": TURNS}, "messages"),
    "prompt and completion": (
        {"prompt": TALK[:1], "completion": TALK[1:]},
        "prompt and completion, lists of messages: the completion is learned",
    ),
}


@pytest.mark.parametrize(("fields", "told"), DIALOGUES.values(), ids=DIALOGUES)
def test_dialogues_of_other_programs_are_dialogues(fields, told):
    record = read(fields)
    assert record.dialogue == read({"messages": TALK}).dialogue
    assert (record.read_as, record.unread) == (told, ())


def test_a_prompt_of_messages_is_context_and_its_completion_is_learned():
    record = read({"prompt": [*TALK, said("user", "Sure?")], "completion": [said("assistant", "Yes.")]})
    assert [message.weight for message in record.dialogue.messages] == [0, 0, 0, 1]
    weighed = read({"prompt": [TALK[0], {**TALK[1], "weight": 2}], "completion": TALK})
    assert [message.weight for message in weighed.dialogue.messages] == [0, 2, 0, 1]


def test_what_stands_in_a_turn_and_beside_a_conversation_is_kept():
    turns = [{"from": "human", "value": "a", "weight": None}, {"from": "gpt", "value": "b", "weight": 0.5, "name": "x"}]
    record = read(
        {"conversations": turns, "system": "Be kind.", "tools": '[{"name": "f"}]', "source": "web", "rank": 3}
    )
    roles = [(message.role, message.weight) for message in record.dialogue.messages]
    assert roles == [("system", 0), ("user", 0), ("assistant", 0.5)]
    assert record.dialogue.messages[2].fields["name"] == "x"
    assert record.dialogue.tools == ({"name": "f"},)
    assert (record.source, record.unread) == ("web", ("rank",))


PAIRS = {
    "input": (
        {"instruction": "Add.", "input": "1 1", "output": "2"},
        ("Add.\n\n1 1", "2", "instruction, input and output: the prompt is instruction, a blank line, input"),
    ),
    "no input": (
        {"instruction": "Add.", "input": "", "output": "2"},
        ("Add.", "2", "instruction and output: the prompt is instruction"),
    ),
    "context": (
        {"instruction": "Add.", "context": "1 1", "response": "2", "category": "sums"},
        ("Add.\n\n1 1", "2", "instruction, context and response: the prompt is instruction, a blank line, context"),
    ),
    "response": ({"prompt": "p", "response": "r"}, ("p", "r", "prompt and response: the prompt is prompt")),
    "query": ({"query": "p", "response": "r"}, ("p", "r", "query and response: the prompt is query")),
    "question": (
        {"question": "q", "answer": "a", "text": None, "context": None},
        ("q", "a", "question and answer: the prompt is question"),
    ),
}


@pytest.mark.parametrize(("fields", "expected"), PAIRS.values(), ids=PAIRS)
def test_pairs_of_other_programs_are_prompts_and_completions(fields, expected):
    record = read(fields)
    assert (record.prompt, record.text, record.read_as) == expected
    assert record.unread == (("category",) if "category" in fields else ())
    assert parse_prompt(fields, "here").text == record.prompt


def test_a_prompt_alone_is_a_prompt_whatever_its_form():
    asked = TALK[:1]
    for fields in ({"prompt": asked}, {"messages": asked}, {"conversations": TURNS}, {"conversations": TURNS[:1]}):
        dialogue = parse_prompt(fields, "here").dialogue
        assert [message.role for message in dialogue.messages] == ["user", "assistant"]
        assert parse_prompt(fields, "here").fields == fields
    assert parse_prompt({"instruction": "Add.", "input": "1 1"}, "here").text == "Add.\n\n1 1"


UNCLEAR = {
    "passage": (
        {"question": "q", "answer": "a", "passage": "c"},
        r"beside 'passage'.*\n.*\n.*columns\.prompt=question",
    ),
    "choices": ({"question": "q", "answer": "a", "choices": ["a"]}, "beside 'choices'"),
    "history": ({"instruction": "q", "output": "a", "history": ["x", "y"]}, "history is no list of pairs"),
    "two answers": ({"instruction": "q", "output": "a", "response": "b"}, "beside 'response'"),
    "preference": ({"prompt": "p", "chosen": "c", "rejected": "r"}, r"a preference\n.*data\.preference=chosen"),
    "preference of talk": ({"chosen": TALK, "rejected": TALK}, r"a preference\n.*data\.preference=chosen"),
    "a tree": ({"prompt": {"text": "q", "role": "prompter", "replies": []}}, r"a tree.*\n.*data\.trees=best"),
    "another prompt": (
        {"prompt": "Why?", "messages": TALK},
        r"a mixture .*\n.*\n.*columns\.messages=messages",
    ),
    "another name": (
        {"url": "x", "content": "words"},
        r"without a text.*\n.*\n.*data\.columns\.text=content",
    ),
    "speaker": (
        {"conversations": [{"from": "bard", "value": "x"}]},
        r"turn 0: from 'bard', who is unknown\n.*human, user, gpt",
    ),
    "two speakers": ({"conversations": [{"from": "gpt", "role": "user"}]}, "from beside role or content"),
    "no list": ({"conversations": "hi"}, "conversations is a string"),
    "half a list": ({"prompt": TALK[:1], "completion": "Here."}, "the completion is a string"),
    "two systems": ({"conversation": [said("system", "a"), *TALK], "system": "b"}, "another beside it"),
    "tools": ({"messages": TALK, "tools": "none"}, "the tools are not JSON"),
    "bytes": ({"text": b"abc"}, "the text is bytes"),
}


@pytest.mark.parametrize(("fields", "what"), UNCLEAR.values(), ids=UNCLEAR)
def test_what_might_mean_two_things_is_refused_with_what_to_type(fields, what):
    with pytest.raises(DataError, match=f"^a.jsonl:1: .*{what}"):
        read(fields)


def test_columns_say_what_is_read_and_nothing_else_is():
    squad = {"question": "q", "answer": "a", "context": "c", "text": "t", "id": 7}
    record = read(squad, {"prompt": "question", "completion": "answer"})
    assert (record.prompt, record.text, record.id) == ("q", "a", "7")
    assert record.read_as == "prompt and completion: prompt from 'question', completion from 'answer'"
    assert record.unread == ("context", "text")
    assert read({"content": "x"}, {"text": "content"}).text == "x"
    both = {"prompt": "Where?", "messages": TALK, "key": "k"}
    record = read(both, {"messages": "messages", "id": "key"})
    assert (record.dialogue.messages[1].fields["content"], record.id, record.read_as) == ("Here.", "k", "messages")
    chosen = {"prompt": TALK[:1], "chosen": TALK[1:], "rejected": TALK[1:]}
    assert read(chosen, {"prompt": "prompt", "completion": "chosen"}).dialogue == read({"messages": TALK}).dialogue
    assert read({"text": "x", "id": "a", "key": 3, "weight": 70.5}, {"id": "key", "weight": ""}) == replace(
        read({"text": "x", "id": 3}), unread=("id", "weight")
    )
    assert read(squad, {"prompt": "question", "completion": "answer", "id": "question"}).id == "q"
    record = read({"id": "words", "key": 3, "weight": 2}, {"text": "id", "id": "key", "weight": ""})
    assert (record.text, record.id, record.weight, record.unread) == ("words", "3", 1.0, ("weight",))
    with pytest.raises(DataError, match=r"no field 'contnt', which data\.columns\.text names; its keys: 'content'"):
        read({"content": "x"}, {"text": "contnt"})
    with pytest.raises(DataError, match=r"data\.columns\.prompt=question, and no field 'completion' beside"):
        read(squad, {"prompt": "question"})


def test_columns_name_parts_of_records():
    alpaca = {"instruction": "q", "output": "a", "text": "t"}
    record = read(alpaca, DataConfig(columns={"text": ""}).columns)
    assert (record.prompt, record.text, record.unread) == ("q", "a", ("text",))
    with pytest.raises(ConfigError, match=r"data\.columns\.txt names nothing.*\n.*text"):
        DataConfig(columns={"txt": "content"})


def test_the_account_counts_forms_and_what_is_not_read(write, byte_tokenizer):
    records = [PAIRS["input"][0], {"text": "x", "url": "u", "n": 1}, {"text": "y", "url": "v"}, PAIRS["question"][0]]
    path = write("a.jsonl", records)
    reading = reading_of(build_corpus(list(read_records(str(path))), byte_tokenizer, {}, None))
    assert reading.lines() == [
        "2 records read as text",
        "1 record read as instruction, input and output: the prompt is instruction, a blank line, input",
        "1 record read as question and answer: the prompt is question",
        "not read in records: 'url' (in 2), 'n' (in 1)",
    ]
    plain = write("b.jsonl", [{"text": "x"}, {"text": "y"}])
    assert reading_of(build_corpus(list(read_records(str(plain))), byte_tokenizer, {}, None)).lines() == []


NAMES = ["text", "label", "prompt", "completion", "messages", "conversations", "instruction", "input", "output", "id"]
NAMES += ["question", "answer", "system", "tools", "weight", "chosen", "rejected"]
TURN = st.fixed_dictionaries({}, optional={
    "from": st.sampled_from(["human", "gpt", "x"]), "role": st.sampled_from(["user", "assistant"]),
    "value": st.text(max_size=3), "content": st.text(max_size=3)})  # fmt: skip
VALUE = st.none() | st.text(max_size=4) | st.integers() | st.lists(TURN, max_size=3) | TURN
VALUE |= st.dictionaries(st.sampled_from(["role", "content", "from"]), st.lists(st.text(max_size=3), max_size=2))


@given(
    st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=6),
    st.none() | st.dictionaries(st.sampled_from(sorted(COLUMNS)), st.sampled_from([*NAMES, ""]), max_size=3),
)
def test_any_object_is_a_record_or_one_clear_error_and_every_field_is_used_or_named(fields, columns):
    error = None
    try:
        record = read(fields, columns)
    except DataError as raised:
        error = str(raised)
    if error is not None:
        assert error.startswith("a.jsonl:1: ")
        return
    assert record.text or record.dialogue
    assert set(record.unread) <= {name for name, value in fields.items() if value is not None}
    if not columns and record.read_as == "text":
        assert {"text", "id", "weight", *record.unread} >= {name for name, one in fields.items() if one is not None}


@given(st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=5))
def test_any_object_is_a_prompt_or_one_clear_error(fields):
    error = None
    try:
        assert parse_prompt(fields, "here").fields == fields
    except DataError as raised:
        error = str(raised)
    assert error is None or error.startswith("here: ")


def test_a_speaker_that_is_unknown_is_renamed_by_what_is_typed():
    with pytest.raises(DataError) as error:
        read({"conversations": [*TURNS[:1], {"from": "robot", "value": "x"}]})
    assert error.value.cure == """sed 's/"from": "robot"/"from": "gpt"/g' a.jsonl > NEW.jsonl, if it is the assistant"""
    assert "function_call, tool_call" in error.value.allowed
    loud = [{"from": turn["from"].upper(), "value": turn["value"]} for turn in TURNS]
    assert read({"conversations": loud}).dialogue == read({"conversations": TURNS}).dialogue


@pytest.mark.parametrize(
    ("fields", "columns", "kind"),
    [
        ({"text": "t", "stars": "5"}, {"label": "stars"}, "text and label"),
        ({"prompt": "p", "answer": "a"}, {"completion": "answer"}, "prompt and completion"),
        ({"body": "t", "label": "5"}, {"text": "body"}, "text"),  # a whole record already
    ],
)
def test_the_other_half_of_a_record_may_have_its_own_name(fields, columns, kind):
    record = read(fields, columns)
    assert record.read_as.split(":")[0] == kind
    assert record.texts == tuple(fields.values())[: len(record.texts)]


def test_half_a_record_that_is_named_says_what_may_be_the_other_half():
    with pytest.raises(DataError, match=r"data.columns.label=stars, and no field 'text' beside; others are 'review'"):
        read({"review": "t", "stars": "5"}, {"label": "stars"})
