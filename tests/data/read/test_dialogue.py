"""What is wrong with a record of messages is named, with what is allowed."""

import json
import math

import pytest
from hypothesis import given, strategies as st

from thetahat.core.errors import DataError
from thetahat.data.read.dialogue import ROLES, parse_dialogue

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind."}


def parsed(messages, **more):
    return parse_dialogue({"messages": messages, **more}, "d.jsonl:7")


def test_messages_keep_what_a_template_may_want():
    call = {"function": {"name": "f", "arguments": {}}}
    messages = [
        SYSTEM,
        {**USER, "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0.5},
    ]
    dialogue = parsed(messages, tools=[{"name": "f"}], id=3)
    assert [message.role for message in dialogue.messages] == ["system", "user", "assistant"]
    assert [message.weight for message in dialogue.messages] == [0.0, 0.0, 0.5]
    assert dialogue.messages[1].fields == {"role": "user", "content": "Hi", "name": "ann"}
    assert dialogue.messages[2].fields == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert dialogue.tools == ({"name": "f"},)


def test_content_in_parts_is_their_text():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert parsed([{"role": "user", "content": parts}, ANSWER]).messages[0].fields["content"] == "Hello"


EMPTY = {
    "system": {"role": "system", "content": ""},
    "null": {"role": "system", "content": None},
    "user": {"role": "user", "content": []},
    "tool": {"role": "tool", "content": ""},
    "thought": {"role": "assistant", "content": "", "reasoning_content": "hm"},
    "thought alone": {"role": "assistant", "thinking": "hm"},
    "meant": {"role": "assistant", "content": "", "weight": 1},
    "context": {"role": "assistant", "content": None, "weight": 0},
}


@pytest.mark.parametrize("case", EMPTY)
def test_a_message_may_be_empty_where_that_is_meant(case):
    message = EMPTY[case]
    dialogue = parsed([message, USER, ANSWER] if message["role"] == "system" else [USER, message, USER, ANSWER])
    assert next(m for m in dialogue.messages if m.fields["content"] == "").role == message["role"]


def test_answers_that_are_null_are_none():
    assert parsed([USER, ANSWER], answers=None).answers == ()


def test_answers_are_messages_of_the_assistant():
    dialogue = parsed([USER], answers=["a", {"content": "b", "weight": 2}, {"role": "assistant", "content": "c"}])
    assert [(answer.role, answer.fields["content"], answer.weight) for answer in dialogue.answers] == [
        ("assistant", "a", 1.0), ("assistant", "b", 2.0), ("assistant", "c", 1.0)]  # fmt: skip


DEEP = []
for _ in range(200):
    DEEP = [DEEP]
WRONG = {
    "no list": ({"a": 1}, "messages: an object"),
    "null": (None, "messages: missing or null"),
    "nothing": ([], "no message of the assistant; roles: none"),
    "no answer": ([USER], "no message of the assistant; roles: user"),
    "no object": ([USER, "Hello"], "message 1 is a string"),
    "role": ([USER, {**ANSWER, "role": "bot"}], "message 1: the role is 'bot'.*allowed: system, developer, user"),
    "no role": ([{"content": "Hi"}], "message 0: the role is missing"),
    "role of list": ([{**USER, "role": ["user"]}], "message 0: the role is a list"),
    "empty": ([USER, {**ANSWER, "content": ""}], "message 1: the content is empty"),
    "no content": ([USER, {"role": "assistant"}], "message 1: the content is missing or null"),
    "number": ([USER, {**ANSWER, "content": 3}], "message 1: the content is a number.*allowed: a string, or"),
    "image": ([{**USER, "content": [{"type": "image"}]}, ANSWER], "message 0: a part of its content is 'image'"),
    "part": ([{**USER, "content": ["x"]}, ANSWER], "message 0: a part of its content is a string"),
    "typo": ([{"role": "user", "contnt": "Hi"}, ANSWER], "message 0: the content is missing or null"),
    "no parts": ([USER, {**ANSWER, "content": []}], "message 1: the content is empty"),
    "two systems": ([SYSTEM, SYSTEM, USER, ANSWER], "messages 0 and 1 are both of the system"),
    "late system": ([USER, SYSTEM, ANSWER], "message 1 is of the system.*allowed: the first message only"),
    "calls": ([USER, {**ANSWER, "tool_calls": ["f"]}], "message 1: a tool call is a string"),
    "no calls": ([USER, {**ANSWER, "tool_calls": {}, "content": None}], "message 1: the content is missing"),
    "nothing said": ([{"role": "user", "content": None}, ANSWER], "message 0: the content is missing or null"),
    "call of object": ([USER, {**ANSWER, "tool_calls": {"a": 1}}], "message 1: tool_calls: an object"),
    "deep": ([USER, {**ANSWER, "note": DEEP}], "message 1: lists and objects more than 100 deep"),
    "surrogate": ([USER, {**ANSWER, "content": "ok \ud800"}], "message 1: half a surrogate pair at character 3"),
    "surrogate below": ([USER, {**ANSWER, "note": [{"\udc00": 1}]}], "message 1: half a surrogate pair"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_messages_is_named(case):
    messages, message = WRONG[case]
    with pytest.raises(DataError, match=f"(?s)^d.jsonl:7: {message}"):
        parsed(messages)


WRONG_ANSWERS = {
    "no list": ([USER], "Hello", "answers: a string"),
    "number": ([USER], [3], "answer 1: the content is a number"),
    "role": ([USER], ["a", {"role": "user", "content": "b"}], "answer 2: the role is 'user'"),
    "to nothing": ([], ["a"], "answers to nothing"),
    "to an answer": ([USER, ANSWER], ["a"], "answers to a message of assistant"),
    "to a system": ([SYSTEM], ["a"], "answers to a message of system"),
    "none": ([USER], [], "no message of the assistant"),
}


@pytest.mark.parametrize("case", WRONG_ANSWERS)
def test_what_is_wrong_with_answers_is_named(case):
    messages, answers, message = WRONG_ANSWERS[case]
    with pytest.raises(DataError, match=f"^d.jsonl:7: {message}"):
        parsed(messages, answers=answers)


@pytest.mark.parametrize("weight", [-1, -0.5, math.inf, math.nan, -(10**400), 10**400, 2e300, 5e-324, "1", True, [1]])
def test_a_weight_that_is_no_weight_is_named(weight):
    with pytest.raises(DataError, match=r"d.jsonl:7: message 1: the weight is .*\n.*0, or a finite number"):
        parsed([USER, {**ANSWER, "weight": weight}])


def test_tools_are_objects():
    for tools, message in (({"a": 1}, "tools: an object"), (["f"], "a tool is a string")):
        with pytest.raises(DataError, match=message):
            parsed([USER, ANSWER], tools=tools)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from([*ROLES, "text"]),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "weight", "type", "text", "tool_calls"]), below, max_size=4
        )
    ),
    max_leaves=12,
)


@given(values, values, values)
def test_any_json_is_a_dialogue_or_one_clear_error(messages, answers, tools):
    error = None
    try:
        dialogue = parse_dialogue({"messages": messages, "answers": answers, "tools": tools}, "here")
        assert any(message.role == "assistant" for message in (*dialogue.messages, *dialogue.answers))
        json.dumps([message.fields for message in dialogue.messages])
    except DataError as raised:
        error = str(raised)
    assert error is None or error.startswith("here: ")
