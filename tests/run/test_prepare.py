"""What is said before step 1, and what is refused there."""

import json
import logging

import pytest

from thetahat.core.config import override
from thetahat.core.errors import ConfigError, DataError
from thetahat.data.config import DataConfig
from thetahat.data.read import bad
from thetahat.data.read.source import divide
from thetahat.distribution.world import World
from thetahat.recipes.catalogue import find_recipe
from thetahat.run.prepare import prepare


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    bad.tell_skipped.cache_clear()


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def prepared(recipe, *pairs):
    return prepare(override(find_recipe(recipe), ["data.vocab_size=300", *pairs]), None, World())


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.module == "prepare"]


TALK = [{"role": role, "content": f"{role} {n} " + "word " * 12} for n in range(6) for role in ("user", "assistant")]


def test_a_text_holds_no_dialogue_and_it_is_said_what_does(tmp_path):
    text = tmp_path / "my.txt"
    text.write_text("words of a text\n" * 99)
    pairs = lines(tmp_path / "pairs.jsonl", [{"prompt": f"p{n}", "completion": "c"} for n in range(9)])
    for path, why in ((text, "a .txt holds texts"), (pairs, "none of its 9 records is one")):
        with pytest.raises(DataError) as error:
            prepared("dialogue", f"data.train={path}", "data.held_out=none")
        assert f"data.train={path} holds no dialogue, which data.chat is for: {why}\n" in str(error.value)
        assert '{"messages": [' in str(error.value)


def test_columns_of_a_text_have_no_effect_and_that_is_said(tmp_path):
    text = tmp_path / "my.txt"
    text.write_text("words of a text\n" * 99)
    with pytest.raises(ConfigError, match=r"data\.columns has no effect: a \.txt has no fields"):
        prepared("quickstart", f"data.train={text}", "data.columns.text=body")


def test_the_account_before_step_1_says_what_was_read_how_and_what_was_not(tmp_path, caplog):
    records = [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": f"Hello {n}"}], "n": n}
               for n in range(8)]  # fmt: skip
    path = lines(tmp_path / "a.jsonl", [*records, {"messages": TALK}])
    with caplog.at_level(logging.INFO, "thetahat"):
        pairs = ("data.held_out=none", "data.context=160", "data.over_long=keep-last-turns")
        prepared("dialogue", f"data.train={path}", *pairs)
    said = told(caplog)
    assert said[:3] == [
        "8 records read as conversations: human is user, gpt is assistant",
        "1 record read as messages",
        "not read in records: 'n' (in 8)",
    ]
    assert "over_long=keep-last-turns at context=160: no target left out, " in said[3]
    assert said[3].endswith(" tokens of prompts and earlier messages not read")
    assert "in 1 record: the oldest messages are not read, since with them the turn would be too long" in said[4:]


def test_records_that_are_split_are_counted_where_there_are_prompts_too(tmp_path, caplog):
    path = lines(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "word " * n} for n in (5, 90, 5)])
    with caplog.at_level(logging.INFO, "thetahat"):
        prepared("quickstart", f"data.train={path}", "data.held_out=none", "data.context=32", "data.over_long=split")
    said, fit = told(caplog)
    assert fit.endswith("of the text lies behind it; data.context=92 holds 99%, data.context=93 all")
    assert said.endswith("over_long=split at context=32: 1 split, no target left out")


@pytest.mark.parametrize("rule", ["tail:0.1", "hash:0.1", "PATH"])
@pytest.mark.parametrize("policy", ["error", "skip"])
def test_the_cure_for_an_empty_part_is_another_than_what_is_set(tmp_path, rule, policy):
    bad_records = [{"text": ""}] * 5 if policy == "skip" else []
    path = lines(tmp_path / "a.jsonl", [{"text": "the only text"[:1]}, *bad_records])
    other = lines(tmp_path / "b.jsonl", bad_records or [{"text": "x"}])
    config = DataConfig(train=str(path), held_out=rule.replace("PATH", str(other)), on_bad_record=policy)
    train, held_out = divide(config)
    if rule == "PATH" and policy == "error":
        return
    with pytest.raises(DataError) as error:
        print(*train, *held_out)
    message = str(error.value)
    assert f"data.held_out={config.held_out} leaves no document to " in message
    cure = message.partition("try: ")[2]
    assert f"data.held_out={rule}" not in cure
    assert ("data.on_bad_record=skip leaves out" in cure) == (policy == "skip")
    assert ("data.held_out=tail:0.1" in cure) == (rule != "tail:0.1")


def test_records_of_both_parts_that_cannot_be_used_are_named_together(tmp_path):
    records = [{"prompt": f"p{n} " + "word " * (90 if n % 3 == 0 else 3), "completion": "c"} for n in range(30)]
    path = lines(tmp_path / "a.jsonl", records)
    pairs = ("data.over_long=error", "data.source_context=64", "data.held_out=hash:0.4")
    with pytest.raises(DataError, match=r"^10 records cannot be used:") as error:
        prepared("translation", f"data.train={path}", *pairs)
    assert str(error.value).count("the prompt of a.jsonl:") == 10
    train, held_out = divide(DataConfig(train=str(path), held_out="hash:0.4"))
    assert all(any(len(record.prompt) > 90 for record in part) for part in (train, held_out))


@pytest.mark.parametrize("key", ["data.train", "data.held_out", "data.sources.b.path", "data.sources.b.held_out"])
def test_standard_input_has_one_reader_under_whatever_key(key):
    other = ["data.sources.b.path=x.txt"] if key.endswith("b.held_out") else []
    config = override(find_recipe("quickstart"), [*other, f"{key}=-"])
    with pytest.raises(ConfigError, match=rf"{key}=-: standard input has one reader, not 2 ranks\n  try: .*{key}=PATH"):
        prepare(config, None, World(0, 2))


def test_records_without_a_label_say_which_columns_may_be_one(tmp_path):
    records = [{"text": f"a text {n}", "stars": str(n % 2)} for n in range(8)]
    path = lines(tmp_path / "a.jsonl", records)
    asked = (f"data.train={path}", "data.context=64", "data.held_out=none")
    with pytest.raises(DataError, match="no record to train on has a label; not read in them: 'stars'") as error:
        prepared("classification", *asked)
    assert error.value.cure == "data.columns.label=stars, whichever is the label"
    assert prepared("classification", *asked, "data.columns.label=stars").labels == ("0", "1")
    one = lines(tmp_path / "one.jsonl", [{"text": "a text", "label": "1"}] * 3)
    with pytest.raises(DataError, match="one label to choose from: '1'"):
        prepared("classification", f"data.train={one}", *asked[1:])


def test_a_label_of_held_out_data_alone_is_said_with_what_declares_it(tmp_path):
    paths = [
        lines(tmp_path / f"{names}.jsonl", [{"text": f"a text {n}", "label": name} for n, name in enumerate(names)])
        for names in ("abab", "abc")
    ]
    asked = (f"data.train={paths[0]}", f"data.held_out={paths[1]}", "data.context=64")
    with pytest.raises(DataError, match=r"has 1 label that no record to train on has: 'c' \(in 1 record\)") as error:
        prepared("classification", *asked)
    declared = error.value.cure.partition(", which")[0]
    assert declared == """data.labels='["a", "b", "c"]'"""
    assert prepared("classification", *asked, declared.replace("'", "")).labels == ("a", "b", "c")
