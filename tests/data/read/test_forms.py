"""The same records in every form that is read: the same corpus, the same losses, and the same account of bad ones."""

import bz2
import gzip
import hashlib
import json
import lzma
from functools import cache
from itertools import cycle

import pyarrow as pa
import pytest
import torch
from msgspec.structs import replace

from tests.data.read.tables import write_arrow, write_parquet
from thetahat.core.config import override
from thetahat.data.config import ReadOptions
from thetahat.data.read import bad
from thetahat.data.read.texts import Texts
from thetahat.distribution.world import World
from thetahat.recipes.catalogue import find_recipe
from thetahat.run.prepare import prepare
from thetahat.run.state import first_state
from thetahat.run.step import step

NUM = 30
TEXTS = [f'{n}: a "text", with; commas\tand\r\nlines\nof ü{"" if n % 3 else " more" * (n % 11)}' for n in range(NUM)]
ASKED = [f"Q{n}, what is “{n * 7 % 11}”?" for n in range(NUM)]
GIVEN = [f"The answer\nis {n * 3 % 17}." for n in range(NUM)]
BETWEEN = "\n<|>\n"


def user(text):
    return {"role": "user", "content": text}


def model(text):
    return {"role": "assistant", "content": text}


def json_lines(rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def json_array(rows):
    return json.dumps(rows, indent=1, ensure_ascii=False).encode()


def delimited(rows, delimiter=","):
    """Every cell in quotes; what is no text as JSON."""
    names = list(rows[0])
    cells = [names, *([row.get(name, "") for name in names] for row in rows)]
    told = [
        ["" if cell is None else cell if isinstance(cell, str) else json.dumps(cell) for cell in row] for row in cells
    ]
    quoted = [delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in told]
    return ("\n".join(quoted) + "\n").encode()


def plain(rows):
    """A text that is null is a byte that is no UTF-8."""
    return BETWEEN.encode().join(b"\xff" if row["text"] is None else row["text"].encode() for row in rows)


def zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


FILES = {
    "txt": plain,
    "md": plain,
    "txt.gz": lambda rows: gzip.compress(plain(rows)),
    "txt.zst": lambda rows: zstd(plain(rows)),
    "jsonl": json_lines,
    "ndjson": json_lines,
    "json": json_array,
    "csv": delimited,
    "tsv": lambda rows: delimited(rows, "\t"),
    "jsonl.gz": lambda rows: gzip.compress(json_lines(rows)),
    "jsonl.bz2": lambda rows: bz2.compress(json_lines(rows)),
    "jsonl.xz": lambda rows: lzma.compress(json_lines(rows)),
    "jsonl.zst": lambda rows: zstd(json_lines(rows)),
    "json.zst": lambda rows: zstd(json_array(rows)),
    "csv.gz": lambda rows: gzip.compress(delimited(rows)),
    "parquet": write_parquet,
    "arrow": write_arrow,
}
"""How rows become a file of a name that ends so."""


def tree(asked, given, n):
    root = {"message_id": f"r{n}", "parent_id": None, "message_tree_id": f"r{n}", "role": "prompter", "text": asked}
    best = {"message_id": f"b{n}", "parent_id": f"r{n}", "message_tree_id": f"r{n}", "role": "assistant", "text": given}
    return root, best | {"rank": 0}, best | {"message_id": f"w{n}", "text": "worse", "rank": 1}


def nested(asked, given, n):
    root, *answers = tree(asked, given, n)
    return {
        "message_tree_id": root["message_tree_id"],
        "prompt": {**root, "replies": [{**a, "replies": []} for a in answers]},
    }


PAIRS = {
    "prompt and completion": lambda q, a, n: {"prompt": q, "completion": a},
    "instruction and output": lambda q, a, n: {"instruction": q, "input": "", "output": a},
    "question and answer": lambda q, a, n: {"question": q, "answer": a},
    "chosen": lambda q, a, n: {"prompt": q, "chosen": a, "rejected": "no"},
}
DIALOGUES = {
    "messages": lambda q, a, n: {"messages": [user(q), model(a)]},
    "ShareGPT": lambda q, a, n: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]},
    "conversational prompt and completion": lambda q, a, n: {"prompt": [user(q)], "completion": [model(a)]},
    "a list of turns": lambda q, a, n: {"conversations": [q, a]},
    "OASST": nested,
    "chosen": lambda q, a, n: {"prompt": [user(q)], "chosen": [model(a)], "rejected": [model("no")]},
    "chosen, prompts included": lambda q, a, n: {"chosen": [user(q), model(a)], "rejected": [user(q), model("no")]},
}
LAYOUTS = {"text": ("quickstart", {"text": lambda q, a, n: {"text": TEXTS[n]}}), "pair": ("quickstart", PAIRS)}
LAYOUTS |= {"dialogue": ("dialogue", DIALOGUES)}
CASES = [("text", "text", ending) for ending in FILES]
CASES += [("pair", layout, ending) for layout in PAIRS for ending in ("jsonl", "csv", "parquet")]
CASES += [("dialogue", layout, "jsonl") for layout in (*DIALOGUES, "messages of a tree")]
CASES += [("dialogue", layout, ending) for layout, ending in zip(DIALOGUES, cycle(("parquet", "csv")), strict=False)]
SETTINGS = [
    "batch_size=3",
    "data.context=96",
    "data.vocab_size=300",
    "data.held_out=none",
    "model.num_layers=1",
    "model.width=16",
    "model.num_heads=2",
]
SETTINGS += [
    "model.num_kv_heads=2",
    "model.head_width=8",
    "model.inner_width=16",
    "data.preference=chosen",
    "data.trees=best",
]


STEPPED = ("txt", "json", "csv", "parquet")


def rows_of(kind, layout, numbers):
    if layout == "messages of a tree":
        return [message for n in numbers for message in tree(ASKED[n], GIVEN[n], n)]
    return [LAYOUTS[kind][1][layout](ASKED[n], GIVEN[n], n) for n in numbers]


def written(folder, ending, rows):
    folder.mkdir(exist_ok=True)
    path = folder / f"a.{ending}"
    made = FILES[ending](path, rows) if ending in ("parquet", "arrow") else FILES[ending](rows)
    if isinstance(made, bytes):
        path.write_bytes(made)
    return path


@cache
def config_of(kind, *pairs):
    return override(find_recipe(LAYOUTS[kind][0]), [*SETTINGS, *pairs])


def prepared(kind, path, *pairs):
    own = [r"data.split_on=\n<|>\n"] if path.name.startswith(("a.txt", "a.md")) else []
    config = config_of(kind, *own, *pairs)
    return prepare(replace(config, data=replace(config.data, train=str(path))), None, World())


def content(corpus):
    """A digest of everything in a corpus but names: they say in which file a record stands, and where."""
    found = hashlib.sha256(corpus.tokens.tobytes())
    for name in sorted(corpus.column):
        found.update(corpus.column[name].tobytes())
    found.update(b"".join(corpus.documents["digest"].to_pylist()))
    return found.hexdigest()


def losses(made):
    """The first two, to the last bit."""
    state = first_state(made.config, made.tokenizer.vocab_size, made.num_steps, torch.device("cpu"))
    return [step(state, made.batches(number), World()).total.mean().item().hex() for number in range(2)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Of each kind of record, the content of the corpus and the losses that the first of its forms gives."""
    found = {}

    def _expected(kind):
        if kind not in found:
            (layout, *_) = LAYOUTS[kind][1]
            made = prepared(kind, written(tmp_path_factory.mktemp(kind), "jsonl", rows_of(kind, layout, range(NUM))))
            found[kind] = content(made.train), losses(made)
        return found[kind]

    return _expected


@pytest.mark.parametrize(("kind", "layout", "ending"), CASES)
def test_the_same_records_are_the_same_corpus_and_have_the_same_losses_in_every_form(
    expected, tmp_path, kind, layout, ending
):
    made = prepared(kind, written(tmp_path, ending, rows_of(kind, layout, range(NUM))))
    assert content(made.train) == expected(kind)[0]
    if ending in STEPPED:  # the others differ from these in how bytes are kept, and have the same corpus
        assert losses(made) == expected(kind)[1]


BAD = (57, 140)  # of 200 records: 1 %
NULL = {
    "prompt and completion": "half a record of prompt and completion: the completion is null",
    "instruction and output": "the output is null",
    "question and answer": "the answer is null",
    "ShareGPT": "the conversations is null",
    "conversational prompt and completion": "half a record of prompt and completion: the completion is null",
    "a list of turns": "the conversations is null",
    "OASST": "the prompt is null",
    "chosen": "half a record of prompt and completion: the chosen is null",
    "chosen, prompts included": "the chosen is null",
}
"""What is said of a record that has nothing to learn, by its layout; of the others the field of this name is null."""
CASES_OF_BAD = [("text", "text", ending) for ending in FILES]
CASES_OF_BAD += [("pair", layout, ending) for layout, ending in zip(PAIRS, cycle(("parquet", "csv")), strict=False)]
CASES_OF_BAD += [("dialogue", layout, "json") for layout in DIALOGUES]


def spoiled(row):
    lost = "chosen" if "chosen" in row else list(row)[-1]
    return {**row, lost: None}


def place_of(data, ending, number):
    """Where a record of these stands: its line, or its place in a file that has no lines."""
    lines = [row["text"].count("\n") + 1 if row.get("text") else 1 for row in data[:number]]
    if ending.startswith(("txt", "md")):
        return 1 + sum(lines) + BETWEEN.count("\n") * number - number
    return 2 + sum(lines) if ending.startswith(("csv", "tsv")) else number + 1


@pytest.mark.parametrize(("kind", "layout", "ending"), CASES_OF_BAD)
def test_of_a_hundredth_that_is_bad_the_account_is_exact(tmp_path, caplog, kind, layout, ending):
    bad.tell_skipped.cache_clear()
    make = LAYOUTS[kind][1][layout]
    good = [make(f"Q{n}?", f"A{n}.", n % NUM) for n in range(200)]
    rows = [spoiled(row) if n in BAD else row for n, row in enumerate(good)]
    path, is_plain = written(tmp_path, ending, rows), ending.startswith(("txt", "md"))
    options = ReadOptions(BETWEEN if is_plain else None, None, "best", "chosen")
    whole = Texts([written(tmp_path / "whole", ending, good)], options)
    found = list(Texts([path], options, "skip"))
    assert [one.digest for one in found] == [one.digest for n, one in enumerate(whole) if n not in BAD]
    reasons = [NULL.get(layout, f"the {layout} is null")] * 2
    if is_plain:
        offsets = [len(plain(rows[:n])) + len(BETWEEN) for n in BAD]
        reasons = [f"not UTF-8: byte 0xff at offset {offset} of the file" for offset in offsets]
    lines = [f"{path}:{place_of(rows, ending, n)}: {why}" for n, why in zip(BAD, reasons, strict=True)]
    (said,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert said.split("\n    ") == ["2 records left out by data.on_bad_record=skip:", *lines]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_is_left_of_a_file_with_bad_records_is_trained_on(tmp_path, kind):
    (layout, *_) = LAYOUTS[kind][1]
    rows = rows_of(kind, layout, range(NUM))
    spoils = [spoiled(row) if n == 7 else row for n, row in enumerate(rows)]
    found = prepared(kind, written(tmp_path, "jsonl", spoils), "data.on_bad_record=skip")
    expected = prepared(kind, written(tmp_path / "good", "jsonl", [*rows[:7], *rows[8:]]))
    assert (content(found.train), losses(found)) == (content(expected.train), losses(expected))
