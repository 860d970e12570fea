"""`thetahat score --out --tokens`: what is written, what goes on after an interruption, what bad input gets."""

import errno
import json
import re
import shlex
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.test_score import SMALL
from tests.commands import ended, started, thetahat
from tests.examples import texts_of
from thetahat.core import store
from thetahat.core.errors import FolderError
from thetahat.ledger.ledger import read_ledger
from thetahat.verbs.score import score


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("score")
    train = ["train", *SMALL, "max_steps=2", "batch_size=4", "threads=1", "evaluation.every=0", "--out", "run", "-q"]
    finished(place, *train)
    records = [{"text": text, "source": "ab"[i % 2]} for i, text in enumerate(texts_of(400))]
    (place / "many.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return place


def finished(place, *words, code=0):
    done = thetahat(place, *words)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_score_goes_on_and_its_ledger_is_that_of_one_that_was_not(place, tmp_path, number):
    words = ["score", "run", "many.jsonl", "deterministic=true", "--out"]
    if not (place / "whole.parquet").exists():
        finished(place, *words, "whole.parquet")
    out = tmp_path / "again.parquet"
    process = started(place, *words, str(out))
    journal = tmp_path / ".again.parquet.scoring"
    while not journal.exists():
        assert process.wait(0.001) is None
        time.sleep(0.01)
    time.sleep(0.4)
    process.send(number)
    done = ended(process)
    assert done.returncode == 128 + number, done.stderr
    assert "what was scored is kept\n  try: start the same command again" in done.stderr
    assert not out.exists()
    parts = list(journal.rglob("answers.safetensors"))
    assert parts
    known = sum(len(load_file(part)["group"]) for part in parts)
    assert 0 < known < 400
    finished(place, *words, str(out))
    assert read_ledger(out) == read_ledger(place / "whole.parquet")
    assert list(tmp_path.iterdir()) == [out]


def test_what_was_scored_is_kept_until_all_is_written(place, tmp_path):
    """The table of tokens cannot be written in the end: its folder is gone by then."""
    (tmp_path / "gone").mkdir()
    process = started(
        place, "score", "run", "many.jsonl", "--out", str(tmp_path / "l.parquet"), "--tokens", str(tmp_path / "gone/t")
    )
    while not (tmp_path / ".l.parquet.scoring").exists():
        assert process.wait(0.001) is None
        time.sleep(0.01)
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").write_text("in the way")
    done = ended(process)
    assert done.returncode == 7, done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "gone"] == [".l.parquet.scoring"]
    assert list(tmp_path.rglob("answers.safetensors"))


def test_a_ledger_that_cannot_be_written_leaves_no_tokens_in_the_way_of_the_next_start(place, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setenv("THETAHAT_CACHE", str(place / "cache"))
    paths = {"out": tmp_path / "l.parquet", "tokens": tmp_path / "t.parquet"}
    with monkeypatch.context() as patch:
        patch.setattr("thetahat.verbs.score.write_ledger", full)
        with pytest.raises(OSError, match="no space left"):
            score(str(place / "run"), [str(place / "many.jsonl")], **paths)
    assert [path.name for path in tmp_path.iterdir()] == [".l.parquet.scoring"]
    assert list(tmp_path.rglob("answers.safetensors"))
    score(str(place / "run"), [str(place / "many.jsonl")], **paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.parquet", "t.parquet"]


@pytest.mark.parametrize(("out", "tokens"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a", "./c/../a/b")])
def test_a_ledger_and_a_table_of_tokens_in_each_other_s_way_are_refused(place, tmp_path, out, tokens):
    with pytest.raises(FolderError, match="in each other's way"):
        score(str(place / "run"), [], out=tmp_path / out, tokens=tmp_path / tokens)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_nothing_is_scored(place):
    for command, option in (("score", "--out"), ("score", "--tokens"), ("choose", "--out")):
        _, err = finished(place, command, "run", "no-such.jsonl", option, "many.jsonl/x.parquet", code=7)
        assert "many.jsonl/x.parquet cannot be written: a file stands" in err
        assert f"try: another {option}" in err


def test_what_a_source_is_called_breaks_no_line_and_obeys_no_terminal(place):
    lines = [{"text": "To be", "source": "a\nby source 1"}, {"text": "or not", "source": "\x1b[31mred"}]
    (place / "odd.jsonl").write_text("".join(json.dumps(line) + "\n" for line in 30 * lines))
    out, _ = finished(place, "score", "run", "odd.jsonl")
    assert r"a\nby source 1" in out
    assert r"\x1b[31mred" in out
    assert "\x1b" not in out


def test_groups_too_small_for_an_interval_are_counted_and_not_listed(place):
    lines = [{"text": f"To be {i}", "source": "many"} for i in range(30)] + [{"text": "or", "source": "one"}]
    (place / "few.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = finished(place, "score", "run", "few.jsonl")[0].split("by source")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in table[1:]] == ["many", "..."]
    assert re.fullmatch(
        r"\.\.\. and 1 group of fewer than 30 documents, together 2 tokens, .*: --json has all", table[-1]
    )


def test_scoring_does_not_import_the_compiler(place):
    """Which takes more than a second; `torch.use_deterministic_algorithms(False)` does so in passing."""
    code = (
        "import sys; from thetahat.cli.main import main; sys.argv = ['thetahat', 'score', 'run', 'odd.jsonl', '-q']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\nprint('torch._dynamo' in sys.modules)"
    )
    (place / "odd.jsonl").write_text('{"text": "To be"}\n')
    out = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"


def test_a_closed_standard_input_is_an_empty_one(place):
    command = f"{shlex.join([sys.executable, '-m', 'thetahat', 'score', 'run', '-'])} <&-"
    done = subprocess.run(command, shell=True, cwd=place, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "is empty" in done.stderr


def test_tokens_have_a_file_and_json_has_every_group(place):
    out, _ = finished(place, "score", "run", "many.jsonl", "--tokens", "tokens.parquet", "--json")
    printed = json.loads(out.splitlines()[-1])
    assert pq.read_metadata(place / "tokens.parquet").num_rows == printed["num_tokens"]
    assert {"source", "length", "position"} <= set(printed["by"])
    assert [group["name"] for group in printed["by"]["source"]] == ["a", "b"]
    assert 0 <= printed["noise_floor_nats_per_token"] < 1e-5
    assert printed["tokens_cut"] == printed["prompt_tokens_cut"] == 0


def test_what_company_changes_is_said_beside_the_number(place):
    out, err = finished(place, "score", "run", "many.jsonl")
    assert "noise floor" in out
    assert "by source" in out
    assert "scored once more, each outside of its batch, which changed at most" in err


def test_a_file_that_is_there_is_not_written_over(place):
    (place / "there.parquet").write_text("precious")
    for option in ("--out", "--tokens"):
        _, err = finished(place, "score", "run", "many.jsonl", option, "there.parquet", code=7)
        assert "there.parquet" in err
    assert (place / "there.parquet").read_text() == "precious"


def test_a_document_without_a_byte_is_named_and_nothing_is_written(place):
    (place / "empty.jsonl").write_text('{"text": "a"}\n{"text": ""}\n')
    _, err = finished(place, "score", "run", "empty.jsonl", "--out", "x.parquet", code=3)
    assert "empty.jsonl:2: the document is empty" in err
    assert not list(place.glob("*x.parquet*"))


def changed(place, name, change):
    """A checkpoint of the run that is whole, but for what `change` does to its parameters."""
    newest = sorted((place / "run" / "checkpoints").glob("step-*"))[-1]
    with store.publishing(place / name) as folder:
        for file in newest.iterdir():
            if file.name != store.MANIFEST:
                (folder / file.name).write_bytes(file.read_bytes())
        parameters = load_file(folder / "model.safetensors")
        change(parameters)
        save_file(parameters, folder / "model.safetensors")


def test_parameters_that_are_not_numbers_are_named_and_nothing_is_written(place):
    changed(place, "sick", lambda parameters: parameters["blocks.0.mlp.down.weight"].view(-1)[3:4].fill_(torch.nan))
    _, err = finished(place, "score", "sick", "many.jsonl", "--out", "x.parquet", code=5)
    assert "blocks.0.mlp.down.weight" in err
    assert not list(place.glob("*x.parquet*"))


def test_a_model_of_another_vocabulary_is_named_and_nothing_is_written(place):
    def cut(parameters):
        parameters["embedding.weight"] = parameters["embedding.weight"][:-8].clone()

    changed(place, "other", cut)
    _, err = finished(place, "score", "other", "many.jsonl", "--out", "x.parquet", code=4)
    assert "embedding.weight is [" in err
    assert not list(place.glob("*x.parquet*"))
