"""The layouts of well-known datasets, field by field as they are published, and what is read of each."""

from pathlib import Path

import pytest

from tests.data.read.tables import write_parquet
from thetahat.core.errors import DataError
from thetahat.data.config import ReadOptions
from thetahat.data.read.form.trees import gathered
from thetahat.data.read.record import parse_records
from thetahat.data.read.texts import read_records


def user(text):
    return {"role": "user", "content": text}


def model(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


CALL = {"name": "weather", "arguments": {"city": "Bonn"}}
CALLED = model("", tool_calls=[{"type": "function", "function": CALL}])
HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant: "
PUBLISHED = {
    "Alpaca": ({"instruction": "Add.", "input": "1 1", "output": "2"}, ("Add.\n\n1 1", "2")),
    "Dolly": ({"instruction": "Who?", "context": "", "response": "He.", "category": "open_qa"}, ("Who?", "He.")),
    "GSM8K": ({"question": "2+2?", "answer": "#### 4"}, ("2+2?", "#### 4")),
    "MetaMathQA": ({"query": "2+2?", "response": "4", "type": "GSM", "original_question": "x"}, ("2+2?", "4")),
    "FLAN": ({"inputs": "Q", "targets": "A", "task": "t"}, ("Q", "A")),
    "Aya": ({"inputs": "Q", "targets": "A", "language": "English", "user_id": "u"}, ("Q", "A")),
    "Natural Instructions": ({"definition": "Do.", "inputs": "Q", "targets": "A", "task_name": "t"}, ("Do.\n\nQ", "A")),
    "NuminaMath": ({"problem": "P", "solution": "S", "source": "olympiads"}, ("P", "S")),
    "SQuAD": (
        {"id": "5", "title": "t", "context": "C", "question": "Q", "answers": {"text": ["A"], "answer_start": [0]}},
        ("C\n\nQ", "A"),
    ),
    "OpenOrca": (
        {"id": "niv.1", "system_prompt": "Help.", "question": "Q", "response": "A"},
        [system("Help."), user("Q"), model("A")],
    ),
    "OpenOrca, no system": (
        {"system_prompt": "", "question": "Q", "response": "A"},
        [user("Q"), model("A")],
    ),
    "LLaMA-Factory": (
        {"instruction": "Q", "input": "I", "output": "A", "system": "S", "history": [["q", "a"]]},
        [system("S"), user("q"), model("a", weight=0), user("Q\n\nI"), model("A")],
    ),
    "ShareGPT": (
        {"id": "x", "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        [user("Q"), model("A")],
    ),
    "ShareGPT with calls": (
        {
            "conversations": [
                {"from": "human", "value": "Q"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bonn"}}'},
                {"from": "observation", "value": "rain"},
                {"from": "gpt", "value": "A"},
            ],
            "tools": '[{"name": "weather"}]',
        },
        [user("Q"), CALLED, {"role": "tool", "content": "rain"}, model("A")],
    ),
    "SlimOrca": (
        {
            "conversations": [
                {"from": "system", "value": "S", "weight": None},
                {"from": "human", "value": "Q", "weight": 0.0},
                {"from": "gpt", "value": "A", "weight": 1.0},
            ]
        },
        [system("S"), user("Q"), model("A")],
    ),
    "OpenHermes": (
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system_prompt": None},
        [user("Q"), model("A")],
    ),
    "UltraChat 200k": ({"prompt": "Q", "prompt_id": "1", "messages": [user("Q"), model("A")]}, [user("Q"), model("A")]),
    "No Robots": (
        {"prompt": "Q", "prompt_id": "1", "messages": [system("S"), user("Q"), model("A")], "category": "Chat"},
        [system("S"), user("Q"), model("A")],
    ),
    "LIMA": ({"conversations": ["Q", "A", "R", "B"], "source": "wiki"}, [user("Q"), model("A"), user("R"), model("B")]),
    "Capybara": ({"conversation": [{"input": "Q", "output": "A"}], "source": "s"}, [user("Q"), model("A")]),
    "TRL": ({"prompt": [user("Q")], "completion": [model("A")]}, [user("Q"), model("A")]),
}


def read(fields, **options):
    return parse_records(fields, "a.jsonl:1", ReadOptions(**options), id="a", source="a.jsonl")


def contents(record):
    """Prompt and completion, or the dialogue."""
    return record.dialogue.messages if record.dialogue else (record.prompt, record.text)


@pytest.mark.parametrize(("fields", "expected"), PUBLISHED.values(), ids=PUBLISHED)
def test_a_published_layout_is_read_as_what_it_is(fields, expected):
    (record,) = read(fields)
    if isinstance(expected, list):
        (expected,) = ((record.dialogue.messages) for record in read({"messages": expected}))
        assert [(one.role, one.weight, one.fields["content"], one.fields.get("tool_calls")) for one in expected] == [
            (one.role, one.weight, one.fields["content"], one.fields.get("tool_calls"))
            for one in record.dialogue.messages
        ]
    else:
        assert contents(record) == expected
    assert record.read_as


PREFERENCES = {
    "texts": ({"prompt": "Q", "chosen": "A", "rejected": "B"}, ("Q", "A")),
    "instruction": ({"instruction": "Q", "input": "I", "chosen": "A", "rejected": "B"}, ("Q\n\nI", "A")),
    "Orca pairs": ({"system": "S", "question": "Q", "chosen": "A", "rejected": "B"}, [(0, "S"), (0, "Q"), (1, "A")]),
    "TRL": ({"prompt": [user("Q")], "chosen": [model("A")], "rejected": [model("B")]}, [(0, "Q"), (1, "A")]),
    "TRL, no prompt": (
        {"chosen": [user("Q"), model("A"), user("R"), model("C")], "rejected": [user("Q"), model("A"), user("R")]},
        [(0, "Q"), (0, "A"), (0, "R"), (1, "C")],
    ),
    "UltraFeedback": (
        {
            "prompt": "Q",
            "messages": [user("Q"), model("A")],
            "chosen": [user("Q"), model("A")],
            "rejected": [user("Q"), model("B")],
            "score_chosen": 8.0,
        },
        [(0, "Q"), (1, "A")],
    ),
    "ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"},
        },
        [(0, "Q"), (1, "A")],
    ),
    "HH-RLHF": ({"chosen": HH + "Yes.", "rejected": HH + "No."}, [(0, "Hi"), (0, "Hello."), (0, "Why?"), (1, "Yes.")]),
}


@pytest.mark.parametrize(("fields", "expected"), PREFERENCES.values(), ids=PREFERENCES)
def test_of_a_preference_the_chosen_answer_alone_is_learned(fields, expected):
    with pytest.raises(DataError, match=r"try: data\.preference=chosen"):
        read(fields)
    (record,) = read(fields, preference="chosen")
    found = contents(record)
    if isinstance(expected, list):
        found = [(one.weight, one.fields["content"]) for one in record.dialogue.messages]
    assert found == expected
    assert "the rejected one is not read" in record.read_as
    assert "rejected" in record.unread


def message(id, parent, role, text, rank=None, **more):
    fields = {"message_id": id, "parent_id": parent, "message_tree_id": "t", "role": role, "text": text, "rank": rank}
    return fields | {"lang": "en", "deleted": False} | more


FLAT = [
    message("t", None, "prompter", "Q"),
    message("a", "t", "assistant", "worse", 1),
    message("b", "t", "assistant", "best", 0),
    message("c", "b", "prompter", "R"),
    message("d", "b", "prompter", "S"),
    message("e", "d", "assistant", "T"),
    message("f", "c", "assistant", "U"),
    message("g", "f", "prompter", "unanswered"),
    message("h", "t", "assistant", "gone", 2, deleted=True),
]


def nested(id="t", parent=None):
    (node,) = [one for one in FLAT if one["message_id"] == id]
    below = [nested(one["message_id"], id) for one in FLAT if one["parent_id"] == id]
    return {name: node[name] for name in ("message_id", "role", "text", "rank", "deleted")} | {"replies": below}


BEST = [[(0, "Q"), (1, "best"), (0, "R"), (1, "U")], [(0, "Q"), (0, "best"), (0, "S"), (1, "T")]]
EVERY = [[(0, "Q"), (1, "worse")], *BEST]


@pytest.mark.parametrize(("trees", "expected"), [("best", BEST), ("all", EVERY)])
def test_every_reply_of_a_tree_is_learned_once_and_a_tree_is_one_document(write, tmp_path, trees, expected):
    lines = [*FLAT, message("z", None, "prompter", "X", message_tree_id="z")]
    lines.append(message("y", "z", "assistant", "Y", message_tree_id="z"))
    flat = write("oasst.messages.jsonl", lines)
    whole = write("oasst.trees.jsonl", [{"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": nested()}])
    table = write_parquet(tmp_path / "p/train.parquet", lines)
    for path in (flat, whole, table):
        records = list(read_records(str(path), ReadOptions(trees=trees)))
        found = [[(one.weight, one.fields["content"]) for one in record.dialogue.messages] for record in records]
        assert found[: len(expected)] == expected
        assert {record.document for record in records[: len(expected)]} == {f"{path.name}#t"}
        assert len({record.id for record in records}) == len(records) == len(expected) + (path != whole)


def test_a_message_whose_parent_is_lost_is_named_by_its_line():
    errors = []
    lines = enumerate([one for one in FLAT if one["message_id"] != "c"], 1)
    ((number, tree),) = gathered(lines, Path("a.jsonl"), errors.append)
    assert number == 1
    assert [error.what.split(" answers")[0] for error in errors] == [
        "a.jsonl:6: the message 'f'",
        "a.jsonl:7: the message 'g'",
    ]
    assert len(tree["prompt"]["replies"]) == 3
