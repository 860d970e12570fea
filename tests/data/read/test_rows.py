"""Tables hold records, row by row, whatever wrote them."""

import datetime
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pyarrow import ipc, parquet

from tests.data.read.tables import save_to_disk, write_arrow, write_parquet
from thetahat.core.errors import DataError
from thetahat.data.corpus.build import build_corpus
from thetahat.data.read.files import find_files
from thetahat.data.read.prompt import read_prompts
from thetahat.data.read.question import read_questions
from thetahat.data.read.table import rows as rows_module
from thetahat.data.read.table.rows import UNREAD, read_rows
from thetahat.data.read.texts import Texts, read_records

WRITERS = {"a.parquet": write_parquet, "a.arrow": write_arrow}
TALK = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]


@pytest.fixture(params=WRITERS)
def written(request, tmp_path):
    """Writes rows into a table of each kind."""
    return lambda rows: WRITERS[request.param](tmp_path / request.param, rows)


def refuse(error):
    raise error


def rows_of(path, columns=None):
    return [row for _, row in read_rows(path, columns, refuse)]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXT},
                             optional={"weight": st.sampled_from([0.0, 0.5, 2.0]), "name": TEXT})  # fmt: skip
MESSAGES = st.lists(TURN, min_size=1, max_size=3).map(lambda turns: [*turns, {"role": "assistant", "content": "end"}])
RECORD = st.one_of(
    st.fixed_dictionaries({"text": TEXT}, optional={"label": TEXT}),
    st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT}),
    st.fixed_dictionaries({"messages": MESSAGES}),
    st.fixed_dictionaries({"instruction": TEXT, "output": TEXT}, optional={"input": TEXT}),
    st.fixed_dictionaries(
        {"conversations": st.lists(st.fixed_dictionaries({"from": st.just("gpt"), "value": TEXT}), min_size=1)}
    ),
).flatmap(
    lambda record: st.fixed_dictionaries(
        {name: st.just(value) for name, value in record.items()},
        optional={"id": TEXT, "source": TEXT, "weight": st.sampled_from([0.5, 1.0])},
    )
)


@given(st.lists(RECORD, min_size=1, max_size=8), st.integers(1, 3), st.sampled_from([1, 2, 1024]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_records_are_the_same_whatever_file_holds_them(tmp_path_factory, records, num_shards, batch):
    folder = tmp_path_factory.mktemp("same")
    lines = folder / "a.jsonl"
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    save_to_disk(folder / "saved", records, num_shards)
    paths = [lines, write_parquet(folder / "a.parquet", records), write_arrow(folder / "a.arrow", records)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_BATCH_ROWS", batch)
        first, *others = ([*read_records(str(path))] for path in (*paths, folder / "saved"))
    for other in others:
        for name in ("canonical", "digest", "weight", "read_as", "is_label", "dialogue", "prompt"):
            assert [getattr(record, name) for record in other] == [getattr(record, name) for record in first]
    assert [record.id for record in others[0] if ":" not in record.id] == [r.id for r in first if ":" not in r.id]


def test_a_corpus_of_a_table_is_that_of_its_lines(tmp_path, written, byte_tokenizer):
    records = [{"text": f"text {n} é", "id": f"d{n}", "source": "web"} for n in range(50)]
    lines = tmp_path / "same.jsonl"
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    ours, theirs = (build_corpus(Texts([path]), byte_tokenizer, {}, None) for path in (lines, written(records)))
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    assert ours.documents["digest"].equals(theirs.documents["digest"])
    assert [record.where.rpartition(":")[2] for record in Texts([written(records)])] == [str(n) for n in range(1, 51)]


KINDS = {
    "large": pa.large_string(),
    "view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_text_is_text(written, kind):
    path = written(pa.table({"text": pa.array(["one", "two", None, "one"]).cast(KINDS[kind])}))
    assert [row["text"] for row in rows_of(path)] == ["one", "two", None, "one"]
    with pytest.raises(DataError, match=r":3: the text is null"):
        list(read_records(str(path)))


def test_nulls_of_a_table_are_absent_and_labels_have_their_names(written):
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"text": ["a", "b", "c"], "label": [1, 0, -1]}).replace_schema_metadata(told)
    assert rows_of(written(table)) == [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"},
                                       {"text": "c", "label": None}]  # fmt: skip
    first, *_ = read_records(str(written(table)))
    assert (first.text, first.prompt, first.is_label) == ("yes", "a", True)
    wrong = pa.table({"text": ["a"], "label": [2]}).replace_schema_metadata(told)
    with pytest.raises(DataError, match="the column 'label': the label 2, where there are 2"):
        rows_of(written(wrong))
    calls = [{"messages": [TALK[0], {**TALK[1], "tool_calls": [{"function": {"name": "f", "arguments": {"x": n}}}]}]}
             for n in (1, None)]  # fmt: skip
    rows = rows_of(written([*calls, {"messages": TALK}]), {"messages"})[:2]
    found = [row["messages"][1]["tool_calls"][0]["function"] for row in rows]
    assert found == [{"name": "f", "arguments": {"x": 1}}, {"name": "f", "arguments": {}}]


def test_a_column_of_json_is_what_it_holds(written):
    values = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": [1, null]}', '"t"', None]))
    path = written(pa.table({"tools": values, "text": ["x", "y", "z"]}))
    assert [row["tools"] for row in rows_of(path)] == [{"a": [1, None]}, "t", None]
    broken = pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{"]))
    with pytest.raises(DataError, match="the column 'tools': not JSON"):
        rows_of(written(pa.table({"tools": broken})))


def test_columns_that_nobody_reads_are_named_and_not_read(written, byte_tokenizer, monkeypatch):
    image = {"bytes": b"\x89PNG" * 100, "path": "x.png"}
    rows = [{"text": f"t{n}", "image": image, "when": datetime.datetime(2025, 1, 2), "score": 0.5} for n in range(3)]
    path = written(rows)
    converted = []
    values = rows_module._values
    monkeypatch.setattr(rows_module, "_values", lambda column, *rest: converted.append(column) or values(column, *rest))
    for record in read_records(str(path)):
        assert sorted(record.unread) == ["image", "score", "when"]
    assert {str(column.type) for column in converted} == {"string"}
    assert rows_of(path, {"text"})[0] == {"text": "t0", "image": UNREAD, "when": UNREAD, "score": UNREAD}
    with pytest.raises(DataError, match=r":1: a record without a text; its keys: .*'image'"):
        list(read_records(str(written([{"image": image}]))))


def test_bytes_are_no_text_and_text_that_is_not_utf8_is_named_by_its_row(written):
    with pytest.raises(DataError, match=r":1: the text is bytes"):
        list(read_records(str(written([{"text": b"abc"}]))))
    column = pa.Array.from_buffers(pa.string(), 3, pa.array([b"ok", b"caf\xe9", b"fine"]).buffers())
    path = written(pa.table({"text": column}))
    with pytest.raises(DataError, match=r":2: the column 'text': not UTF-8: byte 0xe9 at 3"):
        list(read_records(str(path)))
    assert [record.text for record in read_records(str(path), on_bad="skip")] == ["ok", "fine"]


@pytest.mark.parametrize("place", [0, 3, 60, -20, -8, -1])
def test_a_damaged_table_is_named(written, place):
    path = written([{"text": f"text {n}"} for n in range(20)])
    path.write_bytes(path.read_bytes()[:place])
    with pytest.raises(DataError, match=r"is damaged: .*\n.*again"):
        rows_of(path)


def test_an_arrow_file_is_read_like_a_stream_and_a_column_stands_once(tmp_path):
    table = pa.table({"text": ["a", "b"]})
    with ipc.new_file(str(tmp_path / "f.arrow"), table.schema) as writer:
        writer.write_table(table, 1)
    assert rows_of(tmp_path / "f.arrow") == [{"text": "a"}, {"text": "b"}]
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
    with pytest.raises(DataError, match="the column 'text' stands twice"):
        rows_of(write_arrow(tmp_path / "t.arrow", twice))


def test_an_empty_table_is_an_error_alone_and_a_shard_among_others(tmp_path):
    empty = write_parquet(tmp_path / "x" / "a.parquet", pa.table({"text": pa.array([], pa.string())}))
    with pytest.raises(DataError, match="is empty"):
        list(read_records(str(empty)))
    write_parquet(tmp_path / "x" / "b.parquet", [{"text": "one"}])
    assert [record.id for record in read_records(str(tmp_path / "x"))] == ["b.parquet:1"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_table_is_never_in_memory_as_a_whole(tmp_path, kind):
    text = "words of a text " * 1000
    path = WRITERS[kind](tmp_path / kind, pa.table({"text": [f"{n} {text}" for n in range(2000)]}))
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    for count, _ in enumerate(read_rows(path, {"text"}, refuse)):
        if count % 500 == 0:
            assert pa.total_allocated_bytes() - before < 16 << 20
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert count == 1999


def test_questions_and_prompts_are_read_from_tables(written, caplog):
    asked = [{"ctx": "a", "endings": ["b", "c"], "label": "1", "image": b"x"}]
    (question,) = read_questions(str(written(asked)))
    assert (question.choices, question.gold) == (("b", "c"), 1)
    (prompt,) = read_prompts(str(written([{"prompt": TALK[:1], "n": 3, "image": b"x"}])))
    assert prompt.fields == {"prompt": TALK[:1], "n": 3}
    assert "columns that JSON cannot hold are not kept: image" in caplog.text


def test_a_table_in_a_compressed_file_and_a_pointer_are_named(write):
    for name, content, what in (
        ("a.parquet.gz", b"x", "a table in a compressed file"),
        ("b.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
    ):
        with pytest.raises(DataError, match=what):
            list(read_records(str(write(name, content))))


def test_a_table_on_standard_input_is_kept_as_one(tmp_path, monkeypatch, written):
    from thetahat.data.read.named.standard_input import keep_standard_input

    path = written([{"text": "one"}])
    keep_standard_input.cache_clear()
    with path.open(encoding="latin-1") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        (kept,) = find_files("-")
    assert kept.suffix == path.suffix
    assert [record.text for record in read_records("-")] == ["one"]
    keep_standard_input.cache_clear()


def test_what_a_row_group_holds_does_not_matter(tmp_path):
    table = pa.table({"text": [f"t{n}" for n in range(100)]})
    for size in (1, 7, 1000):
        parquet.write_table(table, tmp_path / "a.parquet", row_group_size=size)
        assert [row["text"] for row in rows_of(tmp_path / "a.parquet")] == table["text"].to_pylist()


def test_a_ledger_of_ours_is_no_text(written):
    with pytest.raises(DataError, match="a ledger or a table of tokens, which holds no texts"):
        rows_of(written(pa.table({"id": ["a"]}).replace_schema_metadata({"thetahat": "{}"})))
