import json

import pytest

from thetahat.core.errors import DataError
from thetahat.data.config import ReadOptions
from thetahat.data.read import bad
from thetahat.data.read.bad import BadRecords, TooLongError
from thetahat.data.read.files import find_files
from thetahat.data.read.prompt import read_prompts
from thetahat.data.read.question import read_questions
from thetahat.data.read.texts import Texts, read_records

GOOD = {
    "records": '{"text": "fine"}',
    "questions": '{"good": "a b", "bad": "b a"}',
    "prompts": '{"prompt": "so"}',
}
BAD = ["no JSON", '{"text": ""}', '["a list"]', '{"prompt": 3}', '{"good": "a", "bad": ""}', b'{"text": "\xe9"}']


def kept(path, policy):
    return list(Texts(find_files(str(path)), ReadOptions(), policy))


def streamed(path, policy):
    return list(read_records(str(path), on_bad=policy))


def questions(path, policy):
    return read_questions(str(path), policy)


def prompts(path, policy):
    return read_prompts(str(path), policy)


READERS = [(kept, "records"), (streamed, "records"), (questions, "questions"), (prompts, "prompts")]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    bad.tell_skipped.cache_clear()


def mixed(write, good, lines):
    both = [line for one in lines for line in (good, one)]
    return write("a.jsonl", b"\n".join(line if isinstance(line, bytes) else line.encode() for line in [*both, good]))


@pytest.mark.parametrize(("reader", "kind"), READERS)
def test_all_records_that_cannot_be_read_are_named_at_once(write, reader, kind):
    path = mixed(write, GOOD[kind], BAD)
    with pytest.raises(DataError) as error:
        reader(path, "error")
    said = str(error.value)
    assert f"{len(BAD)} records cannot be used" in said
    assert all(f"a.jsonl:{2 * place}: " in said for place in range(1, len(BAD) + 1))
    assert "data.on_bad_record=skip" in said


@pytest.mark.parametrize(("reader", "kind"), READERS)
def test_records_that_cannot_be_read_are_left_out_and_counted_where_that_is_wanted(write, caplog, reader, kind):
    path = mixed(write, GOOD[kind], BAD)
    for _ in range(2):  # read twice, said once
        assert len(reader(path, "skip")) == len(BAD) + 1
    (said,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert said.startswith(f"{len(BAD)} records left out by data.on_bad_record=skip:")
    assert all(f"a.jsonl:{2 * place}: " in said for place in range(1, len(BAD) + 1))
    with pytest.raises(DataError, match="cannot be used"):
        reader(path, "error")


def test_of_many_the_first_of_each_kind_is_shown_and_a_file_has_all(write, tmp_path):
    path = write("a.jsonl", "\n".join(['{"text": ""}'] * 35 + ['{"text": 3}', "no JSON"]))
    with pytest.raises(DataError, match="37 records cannot be used") as error:
        streamed(path, "error")
    first, second, third, fourth = str(error.value).splitlines()[1:5]
    assert first.endswith("a.jsonl:1: the document is empty (and 34 more like it)")
    assert second.endswith("a.jsonl:36: the text is a number")
    assert "a.jsonl:37: " in third
    assert fourth.startswith("    all of them in ")
    (listed,) = (tmp_path / "cache" / "bad-records").iterdir()
    assert [line.split(": ")[0].rpartition(":")[2] for line in listed.read_text().splitlines()] == list(
        map(str, range(1, 38))
    )


def test_one_bad_record_says_all_that_its_error_says(write):
    with pytest.raises(DataError, match=r"a\.jsonl:1: the document is empty\n  try: remove it.*; or .*skip") as one:
        streamed(write("a.jsonl", '{"text": ""}'), "error")
    assert one.value.cure.endswith("data.on_bad_record=skip to leave it out and count it")


def test_cures_that_are_not_those_of_every_record_are_left_unsaid(write):
    with pytest.raises(DataError) as alike:
        streamed(write("a.jsonl", 2 * '{"text": ""}\n'), "error")
    assert alike.value.cure.startswith("remove it")
    with pytest.raises(DataError) as mixed:
        streamed(write("b.jsonl", '{"text": ""}\n{"text": 3}\n'), "error")
    assert mixed.value.cure == "mend them, or data.on_bad_record=skip to leave them out and count them"
    assert mixed.value.allowed == ""
    for error in (alike, mixed):
        assert str(error.value).count("  try: ") == 1


def test_the_copy_of_good_records_is_not_that_of_the_whole_file(write):
    path = write("a.jsonl", json.dumps({"text": "fine"}) + '\n{"text": 3}\n')
    assert [record.text for record in kept(path, "skip")] == ["fine"]
    with pytest.raises(DataError, match="the text is a number"):
        kept(path, "error")


def test_what_to_type_for_most_of_many_records_is_said(write):
    rows = "".join(f"{'a long title' if n == 0 else 'T'},body number {n} of some length\n" for n in range(5))
    path = write("a.csv", f"title,body\n{rows}")
    with pytest.raises(DataError) as caught:
        list(read_records(str(path)))
    assert "data.columns.text=body" in caught.value.cure
    with pytest.raises(DataError) as caught:
        list(read_records(str(path), ReadOptions(columns={"text": "bdy"})))
    assert caught.value.cure.startswith("data.columns.text=body")


def test_errors_that_another_process_has_found_are_what_they_were_there():
    there, here = BadRecords("error"), BadRecords("error")
    for needed in (40, 90):
        there(TooLongError(f"{needed} tokens", key="data.context", needed=needed, others="data.over_long=split"))
    here.take(json.loads(json.dumps(there.told())))
    with pytest.raises(DataError) as error:
        here.settle()
    assert error.value.cure.startswith("data.context=90, which holds all; or data.over_long=split; or data.on_bad_")
    here.take(json.loads(json.dumps([{"what": "no text", "allowed": "a text", "cure": "a text"}])))
    assert [type(one) for one in here._errors] == [TooLongError, TooLongError, DataError]
