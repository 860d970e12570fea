import gzip
import json

import pytest
from hypothesis import given, strategies as st

from thetahat.core.errors import DataError
from thetahat.data.config import DataConfig, ReadOptions
from thetahat.data.read import texts
from thetahat.data.read.files import find_files
from thetahat.data.read.source import divide
from thetahat.data.read.texts import read_records

TEXTS = [f"document {index}, " + "word " * (index % 7) for index in range(200)]


def read(path, split_on=None):
    return list(read_records(str(path), ReadOptions(split_on)))


def test_a_record_brings_its_id_source_and_weight_or_gets_them(write):
    path = write("a.jsonl", [{"text": "x"}, {"text": "y", "id": 7, "source": "web", "weight": 0.5, "url": "..."}])
    first, second = read(path)
    assert (first.text, first.id, first.document, first.source, first.weight) == (
        "x",
        "a.jsonl:1",
        "a.jsonl:1",
        "a.jsonl",
        1.0,
    )
    assert (second.text, second.id, second.document, second.source, second.weight) == (
        "y",
        "7",
        "a.jsonl#7",
        "web",
        0.5,
    )


def test_blank_lines_and_an_order_mark_are_not_records(write):
    path = write("a.jsonl", b'\xef\xbb\xbf{"text": "x"}\n\n  \r\n{"text": "y"}')
    assert [(record.text, record.id) for record in read(path)] == [("x", "a.jsonl:1"), ("y", "a.jsonl:4")]


@pytest.mark.parametrize("text", ["one\r\ntwo\rthree\n", "mark\ufeffed", " \n ", "\x00\x85\u2028"])
def test_a_text_file_is_one_document_to_the_last_byte(write, text):
    assert [record.text for record in read(write("a.txt", text))] == [text]
    assert [record.text for record in read(write("a.txt.gz", gzip.compress(text.encode())))] == [text]


def test_a_byte_order_mark_before_a_text_is_no_part_of_it(write):
    marked = "\ufeffone\ufeff|\ufefftwo"
    assert [record.text for record in read(write("a.txt", marked))] == ["one\ufeff|\ufefftwo"]
    assert [record.text for record in read(write("a.txt", marked), "|")] == ["one\ufeff", "\ufefftwo"]
    assert [record.text for record in read(write("a.jsonl", '\ufeff{"text": "one"}'))] == ["one"]


def test_a_text_may_hold_what_looks_like_a_key(write):
    text = '"a": 1, "a": 2, \\"b\\" :'
    record = {"text": text, "meta": {"a": {"a": [{"a": '"a":'}]}}}
    assert [record.text for record in read(write("a.jsonl", [record]))] == [text]


FOREIGN = {
    "UTF-16 with a mark": ("words of a text".encode("utf-16"), "UTF-16, .*\n.*iconv -f UTF-16 -t"),
    "UTF-16, little end first": ('{"text": "x"}'.encode("utf-16-le"), "UTF-16, .*\n.*iconv -f UTF-16LE"),
    "UTF-16, big end first": ('{"text": "x"}'.encode("utf-16-be"), "UTF-16, .*\n.*iconv -f UTF-16BE"),
    "UTF-32": ("words".encode("utf-32"), "UTF-32, .*\n.*iconv -f UTF-32"),
    "gzip": (gzip.compress(b'{"text": "x"}'), "compressed by gzip, .*\n.*mv "),
    "zip": (b"PK\3\4\0\0", "a zip archive"),
    "Parquet": (b"PAR1\x15\x04", "Parquet, .*\n.*mv "),
    "Arrow": (b"\xff\xff\xff\xff\xc8\x05\0\0", "Arrow, .*\n.*mv "),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS, .*\n.*git lfs pull"),
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
@pytest.mark.parametrize(("data", "said"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_another_kind_is_named_by_its_first_bytes(write, name, data, said):
    with pytest.raises(DataError, match=said):
        read(write(name, data))


def test_a_field_that_is_null_is_absent(write):
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    nothing = dict.fromkeys(["id", "source", "weight", "answers", "tools", "label", "text", "prompt", "completion"])
    records = [nothing | {"messages": said}, nothing | {"text": "x", "messages": None}]
    records += [nothing | {"prompt": "p", "completion": "c"}, nothing | {"text": "x", "label": "y"}]
    first, second, third, fourth = read(write("a.jsonl", records))
    assert first.dialogue is not None
    assert (first.id, first.weight) == ("a.jsonl:1", 1.0)
    assert (second.text, second.prompt) == ("x", None)
    assert (third.text, third.prompt, third.is_label) == ("c", "p", False)
    assert (fourth.text, fourth.prompt, fourth.is_label) == ("y", "x", True)


def test_a_text_with_other_keys_beside_it_is_a_text(write):
    record = {"text": "x", "instruction": "a", "output": "b", "conversations": []}
    assert [record.text for record in read(write("a.jsonl", [record]))] == ["x"]


def test_a_text_file_is_split_where_it_is_asked_to(write):
    path = write("a.txt", "first\nline<|endoftext|>second\n<|endoftext|><|endoftext|>third<|endoftext|>")
    records = read(path, "<|endoftext|>")
    assert [record.text for record in records] == ["first\nline", "second\n", "third"]
    assert [record.id for record in records] == ["a.txt:1", "a.txt:2", "a.txt:3"]
    assert [record.id for record in read(write("a.txt", "a\nb\n\nc\n\n\n\nd"), "\n\n")] == [
        "a.txt:1",
        "a.txt:4",
        "a.txt:8",
    ]


@given(
    parts=st.lists(st.text("ab\n\u00e9", min_size=1), min_size=1, max_size=20),
    separator=st.sampled_from(["|", "\n\n\n|", "\u20ac\u20ac"]),
)
def test_splitting_does_not_depend_on_how_a_file_is_read(tmp_path_factory, parts, separator):
    parts = [part for part in parts if not part.endswith("\n")] or ["x"]
    path = tmp_path_factory.mktemp("split") / "a.txt"
    path.write_bytes(separator.join(parts).encode())
    with pytest.MonkeyPatch.context() as patch:
        for chunk in (1, 3, 1 << 20):
            patch.setattr("thetahat.data.read.objects._CHUNK", chunk)
            assert [record.text for record in read(path, separator)] == parts


def test_ids_are_made_unique_the_same_way_each_time(write):
    records = [{"text": "1", "id": "a"}, {"text": "2", "id": "a~2"}, {"text": "3", "id": "a"}, {"text": "4", "id": "a"}]
    path = write("x.jsonl", [*records, {"text": "5", "id": "x.jsonl:6"}, {"text": "6"}])
    ids = [record.id for record in read(path)]
    assert ids == ["a", "a~2", "a~3", "a~4", "x.jsonl:6", "x.jsonl:6~2"]
    assert [record.document for record in read(path)] == [
        *("x.jsonl#a", "x.jsonl#a~2", "x.jsonl#a", "x.jsonl#a", "x.jsonl#x.jsonl:6", "x.jsonl:6")
    ]


def test_the_same_line_of_two_files_of_one_name_has_two_ids(write, tmp_path):
    write("one/a.jsonl", [{"text": "x"}])
    write("two/a.jsonl", [{"text": "y"}])
    assert [record.id for record in read(tmp_path)] == ["one/a.jsonl:1", "two/a.jsonl:1"]


GOOD = b'{"text": "fine"}\n'
BAD = {
    b'{"text": "x"': "not JSON",
    b"just words": "not JSON",
    b'{"text": "x"} {"text": "y"}': "not JSON",
    b"[1, 2]": "holds a list",
    b'"text"': "holds a string",
    b"null": "holds null",
    b"3": "holds a number",
    b"{}": "its keys: none",
    b'{"body": "x", "title": "y"}': "its keys: 'body', 'title'",
    b'{"prompt": "x"}': "half a record of prompt and completion",
    b'{"prompt": "x", "completion": ""}': "the completion is empty",
    b'{"text": "x", "label": 3}': "the label is a number",
    b'{"messages": []}': "no message of the assistant",
    b'{"text": "x", "messages": []}': "a mixture of formats",
    b'{"text": null}': "the text is null",
    b'{"text": 3}': "the text is a number",
    b'{"text": ["x"]}': "the text is a list",
    b'{"text": ""}': "the document is empty",
    b'{"text": "x", "weight": -1}': "the weight is -1",
    b'{"text": "x", "weight": "1"}': "the weight is a string",
    b'{"text": "x", "weight": ' + b"9" * 400 + b"}": "the weight is far too large",
    b'{"text": "x", "weight": true}': "the weight is true or false",
    b'{"text": "x", "weight": NaN}': "not JSON: NaN",
    b'{"text": "x", "score": -Infinity}': "not JSON: -Infinity",
    b'{"text": "x", "text": "y"}': "the key 'text' stands twice",
    b'{"text": "x", "meta": [{"a": 1}, {"b": 1, "b" : 2}]}': "the key 'b' stands twice",
    b'{"text": "low \\udc00 half"}': "half a surrogate pair, .udc00",
    b'{"text": null, "answers": null}': "the text is null",
    b'{"text": "x", "weight": 1e999}': "not JSON",
    b'{"text": "x", "id": ""}': "the id is an empty string",
    b'{"text": "x", "id": 1.5}': "the id is a number",
    b'{"text": "x", "source": 3}': "the source is a number",
    b'{"text": "\\ud800 alone"}': "half a surrogate pair, .ud800",
    b"[" * 5000: "not JSON",
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: line.decode()[:40])
@pytest.mark.parametrize("name", ["bad.jsonl", "bad.jsonl.gz"])
def test_a_bad_line_is_named_by_file_and_line(write, line, name):
    content = GOOD + b"\n" + line + b"\n" + GOOD
    path = write(name, gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(DataError, match=BAD[line]) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert error.value.exit_code == 3


def test_prompts_and_labels_are_read_as_what_they_condition(write):
    records = read(write("a.jsonl", [{"prompt": "x", "completion": "y"}, {"text": "z", "label": "w", "weight": 2}]))
    assert [(record.prompt, record.text, record.weight) for record in records] == [("x", "y", 1.0), ("z", "w", 2.0)]
    assert [record.texts for record in records] == [("x", "y"), ("z", "w")]


def test_records_with_one_prompt_fall_on_one_side_of_a_division(write):
    pairs = [{"prompt": f"p{i // 5}", "completion": f"c{i}"} for i in range(200)]
    train, held_out = divide(DataConfig(train=str(write("a.jsonl", pairs)), held_out="hash:0.3"))
    ours, theirs = ({record.prompt for record in part} for part in (train, held_out))
    assert ours
    assert theirs
    assert not ours & theirs


def test_bytes_that_are_not_utf8_are_named_by_line_and_offset(write):
    for mark in (b"", b"\xef\xbb\xbf"):
        start = mark + GOOD + b'{"text": "caf'
        lines = write("a.jsonl", start + b'\xe9"}\n')
        with pytest.raises(DataError) as error:
            read(lines)
        assert str(error.value).startswith(f"{lines}:2: not UTF-8: byte 0xe9 at offset {len(start)} ")
    text = write("b.txt", b"one\ntwo\n|three\n\xff")
    for split_on in (None, "|"):
        with pytest.raises(DataError) as error:
            read(text, split_on)
        assert str(error.value).startswith(f"{text}:4: not UTF-8: byte 0xff at offset 15 ")
    cut_short = write("c.txt", "caf\u00e9".encode()[:-1])
    with pytest.raises(DataError, match="offset 3"):
        read(cut_short)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", b""), ("a.jsonl", b""), ("a.jsonl", b"\n \n"), ("a.txt.gz", gzip.compress(b"", mtime=0))],
)
def test_a_file_without_anything_in_it_is_named(write, name, content):
    path = write(name, content)
    with pytest.raises(DataError, match="is empty") as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"plain", lambda data: data[:15] + b"\x00\xff\x00" + data[18:]]
)
def test_a_damaged_archive_is_named(write, damage):
    path = write("a.txt.gz", damage(gzip.compress(b"some text, " * 50)))
    with pytest.raises(DataError, match="is damaged") as error:
        read(path)
    assert str(path) in str(error.value)


# --- two parts


@pytest.fixture
def many(write):
    """200 documents, each of them twice, under different ids."""
    return write(
        "many.jsonl", [{"text": text, "id": f"{copy}-{index}"} for copy in "ab" for index, text in enumerate(TEXTS)]
    )


def test_no_text_that_is_held_out_is_trained_on(many):
    train, held_out = divide(DataConfig(train=str(many), held_out="hash:0.2"))
    ours, theirs = {record.text for record in train}, {record.text for record in held_out}
    assert ours & theirs == set()
    assert ours | theirs == set(TEXTS)
    assert 20 <= len(theirs) <= 60
    assert len(list(train)) + len(list(held_out)) == 2 * len(TEXTS)


def test_a_document_stays_in_its_part_whatever_stands_around_it(write, many):
    _, held_out = divide(DataConfig(train=str(many), held_out="hash:0.2"))
    other = write("other.jsonl", [{"text": text} for text in reversed(TEXTS[:120])])
    _, fewer = divide(DataConfig(train=str(other), held_out="hash:0.2"))
    assert {record.text for record in fewer} == {record.text for record in held_out} & set(TEXTS[:120])


def test_parts_can_be_read_again_and_again(many):
    train, held_out = divide(DataConfig(train=str(many)))
    assert list(train) == list(train)
    assert list(held_out) == list(held_out)
    assert len({record.id for part in (train, held_out) for record in part}) == 400


@pytest.mark.parametrize("fraction", ["0.1", "0.5", "0.004", "0.999", "1/3"])
def test_the_tail_is_the_end_in_whole_documents_nearest_to_its_share(many, fraction):
    train, held_out = divide(DataConfig(train=str(many), held_out=f"tail:{fraction}"))
    ours, theirs = list(train), list(held_out)
    assert ours + theirs == list(read_records(str(many)))
    sizes = [len(record.text) for record in ours + theirs]
    target = int(sum(sizes) * (1 - DataConfig(held_out=f"tail:{fraction}").division[1]))
    errors = [abs(sum(sizes[:first]) - target) for first in range(1, len(sizes))]
    assert len(ours) == 1 + errors.index(min(errors))


@given(text=st.text(min_size=2, max_size=60), tenths=st.integers(1, 9))
def test_the_tail_of_the_only_document_starts_at_the_next_whole_character(tmp_path_factory, text, tenths):
    path = tmp_path_factory.mktemp("tail") / "one.txt"
    path.write_bytes(text.encode())
    config = DataConfig(train=str(path), held_out=f"tail:0.{tenths}")
    target = len(text.encode()) * (10 - tenths) // 10
    starts = [len(text[:index].encode()) for index in range(len(text) + 1)]
    cut = min(start for start in starts if start >= target)
    train, held_out = divide(config)
    if cut in {0, len(text.encode())}:
        with pytest.raises(DataError, match="leaves no document"):
            list(train)
        return
    (head,), (tail,) = train, held_out
    assert head.text + tail.text == text
    assert len(head.text.encode()) == cut
    assert head.id != tail.id
    assert head.document == tail.document


def test_the_last_tenth_of_the_bundled_text_is_held_out():
    train, held_out = divide(DataConfig(held_out="tail:0.1"))
    (head,), (tail,) = train, held_out
    text = find_files("bundled:tinyshakespeare")[0].read_bytes()
    assert (head.text.encode(), tail.text.encode()) == (text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :])


def test_a_part_that_ends_up_empty_says_what_to_type():
    train, held_out = divide(DataConfig(held_out="hash:0.1"))  # one document: one part is empty
    with pytest.raises(DataError, match=r"data\.held_out=tail:0\.1"):
        print(sum(1 for part in (train, held_out) for _ in part))


def test_a_separator_typed_in_a_shell_stands_between_documents(write, tmp_path):
    write("texts/a.txt", "one\n\ntwo\n\nthree")
    write("texts/b.txt", "a document alone")
    train, _ = divide(DataConfig(train=f"{tmp_path}/texts", held_out="none", split_on=r"\n\n"))
    assert [record.text for record in train] == ["one", "two", "three", "a document alone"]
    parts = divide(DataConfig(train=f"{tmp_path}/texts", held_out="tail:0.6", split_on=r"\n\n"))
    assert [[record.text for record in part] for part in parts] == [["one", "two", "three"], ["a document alone"]]


def test_a_separator_that_stands_nowhere_in_the_texts_to_train_on_is_named(write, tmp_path):
    text = write("a.txt", "one\n\ntwo")
    for split_on, shown in ((r"\n\n\n", r"'\n\n\n'"), (r"\\n", r"'\\n'")):
        train, _ = divide(DataConfig(train=str(text), held_out="none", split_on=split_on))
        with pytest.raises(DataError) as error:
            list(train)
        assert str(error.value).startswith(f"data.split_on={shown} stands nowhere in data.train={text}")
    lines = write("a.jsonl", [{"text": "no text file"}])
    other = write("held_out.txt", "one document is all that is held out")
    train, _ = divide(DataConfig(train=str(lines), held_out="none", split_on="|"))
    assert len(list(train)) == 1
    _, held_out = divide(DataConfig(train=str(text), held_out=str(other), split_on="\n\n"))
    assert len(list(held_out)) == 1


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_separator_is_found_across_the_border_of_what_is_read_at_once(write, size, monkeypatch):
    monkeypatch.setattr(texts, "_CHUNK", 4)
    for start in range(12):
        text = write("a.txt", "." * start + "|" * size + "." * (12 - start))
        train, _ = divide(DataConfig(train=str(text), held_out="none", split_on="|" * size))
        assert "".join(record.text for record in train) == "." * 12
        with pytest.raises(DataError, match="stands nowhere"):
            list(divide(DataConfig(train=str(text), held_out="none", split_on="|" * (size + 1)))[0])


def test_other_files_can_be_held_out_but_not_the_same(write, tmp_path):
    write("train/a.txt", "to train on")
    write("test/b.txt", "to hold out")
    train, held_out = divide(DataConfig(train=f"{tmp_path}/train", held_out=f"{tmp_path}/test"))
    assert [[record.text for record in part] for part in (train, held_out)] == [["to train on"], ["to hold out"]]
    with pytest.raises(DataError, match=r"b\.txt is in data\.train"):
        divide(DataConfig(train=str(tmp_path), held_out=f"{tmp_path}/test/../test/b.txt"))


def test_nothing_can_be_held_out(many):
    train, held_out = divide(DataConfig(train=str(many), held_out="none"))
    assert held_out is None
    assert json.dumps([record.text for record in train]) == json.dumps(TEXTS * 2)


def test_a_source_weighs_what_the_config_says_and_one_that_is_not_there_is_named(write):
    path = write("a.jsonl", [{"text": f"t{i}", "source": "ab"[i % 2], "weight": 2} for i in range(6)])
    train, _ = divide(DataConfig(train=str(path), held_out="none", source_weights={"a": 0.25}))
    assert [record.weight for record in train] == [0.5, 2.0] * 3
    train, _ = divide(DataConfig(train=str(path), held_out="none", source_weights={"c": 3.0}))
    with pytest.raises(DataError, match="names 'c', a source that no record has"):
        list(train)


def test_several_places_are_one_dataset_in_their_order(write):
    some, more = write("b/some.jsonl", [{"text": "one"}]), write("a/more.jsonl", [{"text": "two"}])
    config = DataConfig(train=(str(some), str(more)), held_out=(str(write("c.jsonl", [{"text": "three"}])),))
    training, held_out = divide(config)
    assert [record.text for record in training] == ["one", "two"]
    assert [record.text for record in held_out] == ["three"]
    for twice in ({"train": (str(some), str(some))}, {"train": str(some), "held_out": (str(some),)}):
        with pytest.raises(DataError, match=r"is named twice|is in data\.train="):
            divide(DataConfig(**twice))
