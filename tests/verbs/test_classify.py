"""A classifier: the labels that it gives, and how often these are right, counted independently."""

import csv
import json
import math
import sys
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from msgspec.structs import replace

from tests.examples import run_config
from tests.verbs.test_families import sentence
from thetahat.cli.main import main
from thetahat.core.batch import Inputs
from thetahat.core.config import override
from thetahat.core.errors import ConfigError, DataError
from thetahat.core.visibility import visibility_of
from thetahat.data.config import DataConfig
from thetahat.ledger.classification import classification_of
from thetahat.ledger.ledger import read_ledger
from thetahat.model.config import EncoderConfig
from thetahat.objective.config import Labels, ObjectiveConfig
from thetahat.run.config import CheckpointConfig
from thetahat.run.train import train
from thetahat.verbs.classify import classify
from thetahat.verbs.compare import compare
from thetahat.verbs.load import load
from thetahat.verbs.score import score
from thetahat.verbs.select import select

SHAPE = {"num_layers": 1, "width": 16, "num_heads": 2, "num_kv_heads": 2, "head_width": 8, "inner_width": 16}
NAMES = ("air", "land", "sea", "fire")
RECORDS = [
    {"id": f"r{i // 2}", "text": f"{sentence(i, 9)} {NAMES[i % 4]}", "label": NAMES[(i % 4) if i % 5 else 0]}
    for i in range(80)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("labels")
        patch.setenv("THETAHAT_CACHE", str(place / "cache"))
        (place / "all.jsonl").write_text("".join(json.dumps(one) + "\n" for one in RECORDS))
        data = DataConfig(train=str(place / "all.jsonl"), held_out="hash:0.4", context=48, vocab_size=300)
        config = run_config(
            EncoderConfig(**SHAPE), data=data, objective=ObjectiveConfig(factorization=Labels()), max_steps=8, threads=1
        )
        config = replace(config, checkpoint=CheckpointConfig(every=4, keep=9))
        list(train(override(config, ["evaluation.every=4", "recipe=labels"]), place / "run"))
        yield place


def predictions(loaded):
    """The log-probabilities of all labels, text by text, through the plain model in float64."""
    model, found = loaded.model.double(), []
    for record in RECORDS:
        tokens = torch.tensor([loaded.tokenizer.frames.text.around(loaded.tokenizer.encode([record["text"]])[0])])
        inputs = Inputs(
            tokens, torch.arange(tokens.shape[1])[None], visibility_of(torch.zeros_like(tokens), is_causal=False)
        )
        with torch.no_grad():
            logits = model.head(model.hidden(inputs)[0, 0]).numpy()
        found.append(logits - np.log(np.exp(logits).sum()))
    return np.array(found)


def test_accuracy_and_labels_are_those_of_an_independent_count(place):
    loaded = load(str(place / "run"))
    found, scored = classify(loaded, data=[str(place / "all.jsonl")], top=4), score(loaded, [str(place / "all.jsonl")])
    labels, expected = loaded.card.labels, predictions(load(str(place / "run"), ("dtype=float64",)))
    best = [labels[index] for index in expected.argmax(1)]
    right = sum(one == record["label"] for one, record in zip(best, RECORDS, strict=True))
    assert [one.predicted for one in found.texts] == best == [row.predicted for row in scored.rows]
    for judged in (found.classification, scored.summary.classification):
        assert (judged.num_right, judged.num_texts, judged.num_clusters) == (right, 80, 40)
        assert judged.accuracy.estimate == right / 80
    for one, row in zip(found.texts, expected, strict=True):
        np.testing.assert_allclose([nats for _, nats in one.ranked], np.sort(row)[::-1], rtol=1e-4, atol=1e-6)
    nats = [row[labels.index(record["label"])] for row, record in zip(expected, RECORDS, strict=True)]
    assert scored.summary.nats_per_token == pytest.approx(-math.fsum(nats) / 80, rel=1e-5)
    of_label = {one.label: one for one in scored.summary.classification.labels}
    for name in NAMES:
        support = sum(record["label"] == name for record in RECORDS)
        hits = sum(a == name == record["label"] for a, record in zip(best, RECORDS, strict=True))
        one = of_label[name]
        assert (one.support, one.num_predicted, one.num_right) == (support, best.count(name), hits)
        if hits:
            p, r = hits / best.count(name), hits / support
            assert (one.precision, one.recall) == (p, r)
            assert one.f1 == pytest.approx(2 * p * r / (p + r))
    cells = {(cell.label, cell.predicted): cell.count for cell in found.classification.confusion}
    assert cells == Counter((record["label"], one) for one, record in zip(best, RECORDS, strict=True))


def test_texts_typed_or_read_in_other_batches_get_the_same_labels(place):
    texts = [record["text"] for record in RECORDS]
    plain = classify(str(place / "run"), texts)
    assert plain.classification is None
    for change in ("batch_size=1", "deterministic=true"):
        other = classify(load(str(place / "run"), (change,)), data=[str(place / "all.jsonl")])
        assert [one.predicted for one in other.texts] == [one.predicted for one in plain.texts]
        for ours, theirs in zip(other.texts, plain.texts, strict=True):
            assert ours.ranked[0][1] == pytest.approx(theirs.ranked[0][1], abs=1e-5)
    alone = [classify(load(str(place / "run"), ("deterministic=true",)), [text]).texts[0].ranked for text in texts[:9]]
    assert alone == [one.ranked for one in other.texts[:9]]


def test_the_numbers_of_a_classifier_have_no_bytes(place):
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    scored = score(load(str(place / "run")), out=place / "ledger.parquet")
    chosen = select(str(place / "run")).to_dict()
    compared = compare(place / "ledger.parquet", place / "ledger.parquet").to_dict()
    for said in (lines, scored.to_dict(), chosen, {name: compared[name] for name in compared if name != "gains"}):
        words = json.dumps(said).replace('"bits_per_byte": null', "").replace('"bits_per_byte_ci95": null', "")
        assert "per_byte" not in words
    assert lines[-1]["held_out_accuracy"] == scored.summary.classification.accuracy.estimate
    assert lines[-1]["held_out_nats_per_label"] == scored.summary.value
    rows, _ = read_ledger(place / "ledger.parquet")
    assert rows == scored.rows
    assert classification_of(rows) == scored.summary.classification
    assert compared["accuracy_a"] == compared["accuracy_b"] == scored.summary.classification.accuracy.estimate


def test_what_is_written_is_what_was_found(place):
    found = classify(str(place / "run"), data=[str(place / "all.jsonl")], top=2, out=place / "a.jsonl")
    rows = [json.loads(line) for line in (place / "a.jsonl").read_text().splitlines()]
    assert rows == [one.to_dict() for one in found.texts]
    assert {len(row["top"]) for row in rows} == {2}
    for name in ("a.parquet", "a.csv"):
        classify(str(place / "run"), data=[str(place / "all.jsonl")], out=place / name)
    table = pq.read_table(place / "a.parquet").to_pylist()
    with (place / "a.csv").open(newline="") as file:
        plain = list(csv.DictReader(file))
    for row, one, line in zip(rows, table, plain, strict=True):
        assert one["predicted"] == line["predicted"] == row["predicted"]
        assert one["label"] == line["label"] == row["label"]
        assert one["probability"] == float(line["probability"]) == row["probability"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"texts": ["x " * 200]}, DataError, "tokens where the encoder reads"),
        ({"texts": ["  "]}, DataError, "text 1 is empty"),
        ({}, ConfigError, "no text came"),
        ({"texts": ["x"], "out": "a.txt"}, ConfigError, "ends in .jsonl, .parquet, .csv"),
    ],
)
def test_what_cannot_be_labelled_is_said(place, arguments, error, message):
    if "out" in arguments:
        arguments = arguments | {"out": place / arguments["out"]}
    with pytest.raises(error, match=message):
        classify(str(place / "run"), **arguments)


@pytest.mark.parametrize(
    ("word", "cure"),
    [
        ("all.json", "all.jsonl; or printf %s all.json | thetahat classify run -, if it is a text"),
        ("run/metrics", "run/metrics.jsonl; or printf"),
        ("either/or", "printf %s either/or | thetahat classify run -, if it is a text"),
        ("sea.log", "printf %s sea.log | thetahat classify run -, if it is a text"),
    ],
)
def test_the_name_of_a_file_that_is_missing_is_no_text(place, monkeypatch, capfd, word, cure):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["thetahat", "classify", "run", word])
    with pytest.raises(SystemExit):
        main()
    told = capfd.readouterr().err
    assert told.startswith(f"thetahat: no such file or folder: {word}")
    assert f"try: {cure}" in told


def test_the_command_reads_texts_files_and_lines(place, capfd, monkeypatch):
    (place / "lines.txt").write_text("the whale\nwhat is the sea?\n")
    printed = []
    for words in (["how old is the sea?"], [str(place / "lines.txt")], [str(place / "all.jsonl"), "--json"]):
        monkeypatch.setattr(sys, "argv", ["thetahat", "classify", str(place / "run"), *words])
        main()
        printed.append(capfd.readouterr().out)
    assert printed[0].splitlines()[0].split() == ["label", "probability", "nats"]
    assert [line.split("\t")[2] for line in printed[1].splitlines()] == ["the whale", "what is the sea?"]
    assert json.loads(printed[2])["classification"]["num_texts"] == 80
    long = ["x " * 200, "data.over_long=truncate-right"]
    monkeypatch.setattr(sys, "argv", ["thetahat", "classify", str(place / "run"), *long])
    main()
    assert "too long" in capfd.readouterr().err
