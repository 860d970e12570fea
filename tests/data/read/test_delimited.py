"""CSV and TSV as people write them: RFC 4180, other delimiters, and rows that are none."""

import csv
import io
import json

import pytest
from hypothesis import given, strategies as st

from tests.data.read.test_files import COMPRESSED
from thetahat.core.errors import DataError
from thetahat.data.config import ReadOptions
from thetahat.data.read.files import find_files
from thetahat.data.read.objects import read_objects
from thetahat.data.read.texts import read_records

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=6)


def rows(path, **names):
    return list(read_objects(path, **names))


def test_a_row_is_an_object_of_texts_and_an_empty_cell_is_null(write):
    text = '\ufeffid,text,note\r\n1,"He said ""no"",\nand left",\r\n\r\n2,plain,"a, b"'
    path = write("a.csv", text)
    assert rows(path) == [
        (2, {"id": "1", "text": 'He said "no",\nand left', "note": None}),
        (5, {"id": "2", "text": "plain", "note": "a, b"}),
    ]
    assert [record.id for record in read_records(str(path))] == ["1", "2"]


@pytest.mark.parametrize("kind", ["csv ,", "csv ;", "csv \t", "csv |", "tsv \t"])
def test_the_first_row_tells_what_stands_between_cells_and_it_is_said(write, caplog, kind):
    name, mark = f"a.{kind[:3]}", kind[-1]
    caplog.set_level("INFO")
    path = write(name, mark.join(["prompt", "completion"]) + "\n" + mark.join(["a", "b"]) + "\n")
    ((_, found),) = rows(find_files(str(path))[0])
    assert found == {"prompt": "a", "completion": "b"}
    assert "between cells, the first row names the columns 'prompt', 'completion'" in caplog.text


def test_a_weight_is_a_number_and_messages_may_be_a_text_of_json(write):
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    cell = json.dumps(talk).replace('"', '""')
    (record,) = read_records(str(write("a.csv", f'messages,w\n"{cell}",0.5\n')), ReadOptions(columns={"weight": "w"}))
    assert record.weight == 0.5
    assert record.dialogue.texts == ("Q", "A")
    with pytest.raises(DataError, match="the weight is a string"):
        list(read_records(str(write("b.csv", "text,weight\nx,much\n"))))


BAD = {
    "few": ("a", "1 cells, where the first row has 2"),
    "many": ("a,b,c", "3 cells, where the first row has 2"),
    "closed within": ('"a"b,c', "no row of cells"),
    "never closed": ('"a,b', "no row of cells"),
    "bytes": (b"\xe9,b", "not UTF-8"),
}


@pytest.mark.parametrize(("line", "what"), BAD.values(), ids=BAD)
def test_a_bad_row_costs_itself_alone_and_is_named_by_its_line(write, line, what):
    good = b'p,"q\nr"\n' * 3
    content = b"prompt,completion\n" + good + (line if isinstance(line, bytes) else line.encode()) + b"\n" + good
    path, errors = write("a.csv", content), []
    found = rows(path, on_error=errors.append)
    assert [number for number, _ in found] == [2, 4, 6, 9, 11, 13]
    assert {fields["completion"] for _, fields in found} == {"q\nr"}
    (error,) = errors
    assert error.what.startswith(f"{path}:8: ")
    assert what in error.what
    with pytest.raises(DataError, match=what):
        list(read_records(str(path)))
    assert len(list(read_records(str(path), on_bad="skip"))) == 6


def test_a_head_that_tells_nothing_is_refused(write):
    with pytest.raises(DataError, match="the column 'text' stands twice"):
        rows(write("a.csv", "text,text\na,b\n"))
    with pytest.raises(DataError, match="is empty"):
        find_files(str(write("b.csv", "\n\n")))
    with pytest.raises(DataError, match=r"a record without a text; its keys: 'Hello', 'World'"):
        list(read_records(str(write("c.csv", "Hello,World\na,b\n"))))


@pytest.mark.parametrize("ending", COMPRESSED)
def test_compressed_and_in_folders_it_is_the_same(write, ending):
    path = write(f"x/a.tsv{ending}", COMPRESSED[ending](b"text\tid\none\t1\ntwo\t2\n"))
    assert [(record.text, record.id) for record in read_records(str(path.parent))] == [("one", "1"), ("two", "2")]


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_python_writes_is_read_as_it_was(tmp_path_factory, cells, end, quotes):
    stream = io.StringIO()
    quoting = csv.QUOTE_ALL if quotes else csv.QUOTE_MINIMAL
    csv.writer(stream, lineterminator=end, quoting=quoting).writerows([("a", "b"), *cells])
    path = tmp_path_factory.mktemp("written") / "a.csv"
    path.write_bytes(stream.getvalue().encode())
    assert [(one["a"] or "", one["b"] or "") for _, one in rows(path)] == cells
