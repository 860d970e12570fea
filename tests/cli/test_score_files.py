"""`thetahat score --out --tokens`: what is written, what goes on after an interruption, what bad input gets."""

import json
import os
import signal
import subprocess
import time

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.test_score import ALONE, SMALL
from tests.examples import texts_of
from thetahat.core import store
from thetahat.evaluation.ledger import read_ledger


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("score")
    train = ["train", *SMALL, "max_steps=2", "batch_size=4", "threads=1", "evaluation.every=0", "--out", "run", "-q"]
    finished(place, *train)
    records = [{"text": text, "source": "ab"[i % 2]} for i, text in enumerate(texts_of(1500))]
    (place / "many.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return place


def start(place, *words):
    environment = os.environ | {"THETAHAT_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*ALONE, *words], env=environment, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(place, *words, code=0):
    process = start(place, *words)
    out, err = process.communicate()
    assert process.returncode == code, err.decode()
    return out.decode(), err.decode()


def test_an_interrupted_score_goes_on_and_its_ledger_is_that_of_one_that_was_not(place):
    words = ["score", "run", "many.jsonl", "deterministic=true", "--out"]
    finished(place, *words, "whole.parquet")
    process = start(place, *words, "again.parquet")
    journal = place / ".again.parquet.scoring"
    while not journal.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.4)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert not (place / "again.parquet").exists()
    parts = list(journal.rglob("answers.safetensors"))
    assert parts
    known = sum(len(load_file(part)["group"]) for part in parts)
    assert 0 < known < 1500
    finished(place, *words, "again.parquet")
    assert read_ledger(place / "again.parquet") == read_ledger(place / "whole.parquet")
    assert not journal.exists()


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
    assert "noise_floor_nats_per_token" in out
    assert "by source" in out
    assert "sequences read again, alone" in err


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
