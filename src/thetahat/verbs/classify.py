"""The label of a text, by a classifier."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from thetahat.core import store
from thetahat.core.errors import ConfigError, DataError
from thetahat.data.corpus.build import build_corpus
from thetahat.data.read.files import find_files
from thetahat.data.read.record import Record
from thetahat.data.read.texts import Texts
from thetahat.distribution.world import join_world
from thetahat.ledger.classification import Classification, classification_of
from thetahat.ledger.ledger import write_table
from thetahat.run.prepare import encoding_of
from thetahat.scoring.likelihood import Likelihoods, ScoringHooks, ledger_rows, score_corpus
from thetahat.verbs.load import Loaded, load

Shows = Callable[[int, int], None]
FORMATS = ".jsonl", ".parquet", ".csv"  # of what is written
logger = getLogger("thetahat")


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a classifier says of one text."""

    id: str
    text: str
    label: str | None  # what the data says, where it says anything
    ranked: tuple[tuple[str, float], ...]  # the likeliest labels with their nats, the likeliest first

    @property
    def predicted(self) -> str:
        """The likeliest label; of equally likely ones, the first in the model's order."""
        return self.ranked[0][0]

    @property
    def probability(self) -> float:
        """That of the likeliest label."""
        return math.exp(self.ranked[0][1])

    def to_dict(self) -> dict[str, Any]:
        """What `--json` and `--out` hold."""
        top = [{"label": label, "probability": math.exp(nats), "log_prob": nats} for label, nats in self.ranked]
        given = {} if self.label is None else {"label": self.label}
        found = {"predicted": self.predicted, "probability": self.probability, "log_prob": self.ranked[0][1]}
        return {"id": self.id, "text": self.text} | given | found | {"top": top}


@dataclass(frozen=True, slots=True)
class Classified:
    """All texts with their labels, and how often these are right where the data says so."""

    texts: list[Labelled]
    classification: Classification | None  # over the texts that have a label

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        judged = {"classification": self.classification.to_dict()} if self.classification else {}
        return {"num_texts": len(self.texts)} | judged | {"texts": [one.to_dict() for one in self.texts]}


def classify(
    model: Loaded | str,
    texts: Sequence[str] = (),
    data: Sequence[str] = (),
    *,
    top: int = 5,
    out: Path | None = None,
    shows: Shows | None = None,
) -> Classified:
    """The likeliest label of each of `texts`, or of each record of `data`, and the `top` likeliest with their nats.

    A record is a text, alone or with its label; a line of a .txt is one. Texts of like length are read together, which
    changes no more than the last digits; none with deterministic=true. Where records have labels, these are counted.
    `out` gets a line, or a row, for each text: .jsonl, .parquet or .csv.
    """
    if bool(texts) == bool(data):
        raise ConfigError("texts and data came" if texts else "no text came", allowed="texts, or places of data")
    if out:
        _check_out(out)
    loaded = load(model) if isinstance(model, str) else model
    labels = loaded.card.labels
    if not labels:
        raise DataError(
            f"{loaded.folder} is no classifier: it has no labels",
            cure="thetahat train classification base=MODEL data.train=labelled.jsonl",
        )
    found = _typed(texts) if texts else _read(loaded, data)
    world = join_world(loaded.inference.device)
    known = [record.text if record.prompt is not None else None for record in found]
    asked = [_asking(record, labels[0]) for record in found]
    encoding = replace(encoding_of(loaded.card), on_bad_record=loaded.on_bad_record)
    corpus = build_corpus(asked, loaded.tokenizer, {}, None, encoding)
    hooks = ScoringHooks(shows=shows or (lambda done, total: None), num_ranked=max(top, 1))
    likelihoods = score_corpus(loaded.model, corpus, loaded.policy, world, loaded.device, hooks)
    rows = ledger_rows(likelihoods, corpus, labels)
    _tell_cut(int((corpus.column["documents.prompt_cut"] > 0).sum()), loaded)
    by_id = {record.id: (record.prompt or record.text, label) for record, label in zip(found, known, strict=True)}
    judged = [replace(row, label=by_id[row.id][1]) for row in rows]
    listed = [
        Labelled(row.id, *by_id[row.id], ranked) for row, ranked in zip(rows, _ranked(likelihoods, labels), strict=True)
    ]
    result = Classified(listed, classification_of(judged))
    if out and world.is_first:
        _write(out, listed)
    return result


def _check_out(out: Path) -> None:
    if out.suffix not in FORMATS:
        raise ConfigError(f"--out {out}", allowed=f"a file that ends in {', '.join(FORMATS)}")
    store.check_target(out)


def _typed(texts: Sequence[str]) -> list[Record]:
    names = [f"text {number}" for number in range(1, len(texts) + 1)]
    if empty := [name for name, text in zip(names, texts, strict=True) if not text.strip()]:
        raise DataError(f"{empty[0]} is empty", allowed="a text of a character or more")
    return [Record(text, name, name, "") for name, text in zip(names, texts, strict=True)]


def _read(loaded: Loaded, data: Sequence[str]) -> list[Record]:
    """The records of files, each line of a .txt a text unless the model or data.split_on says otherwise."""
    options = loaded.card.read_options
    lines = replace(options, split_on=options.split_on or "\n")
    records = list(Texts(find_files(data), lines, loaded.on_bad_record))
    labels = set(loaded.card.labels)
    for record in records:
        if record.dialogue is not None:
            raise DataError(f"{record.where or record.id}: a dialogue", allowed="a text, alone or with its label")
        if record.prompt is not None and record.text not in labels:
            raise DataError(
                f"{record.where or record.id}: {record.text!r} is none of the {len(labels)} labels of the model",
                cure="data.columns.text=FIELD, which reads the text of a record alone",
            )
    return records


def _asking(record: Record, label: str) -> Record:
    """A labelled text as the model reads it; a label that is not known is left open, and any stands in its place."""
    if record.prompt is not None:
        return replace(record, is_label=True)
    return replace(record, prompt=record.text, text=label, is_label=True)


def _ranked(likelihoods: Likelihoods, labels: Sequence[str]) -> list[tuple[tuple[str, float], ...]]:
    """For each text its likeliest labels with their nats."""
    found = likelihoods.ranked[likelihoods.start[:-1]]
    count = found.shape[1] // 2
    numbers: list[list[int]] = found[:, :count].astype(np.int64).tolist()
    nats: list[list[float]] = found[:, count:].tolist()
    named: list[list[str]] = [[labels[number] for number in row] for row in numbers]
    return [tuple(zip(own, values, strict=True)) for own, values in zip(named, nats, strict=True)]


def _tell_cut(num_cut: int, loaded: Loaded) -> None:
    if num_cut:
        logger.warning("%d texts are too long: data.over_long=%s left out a part", num_cut, loaded.card.over_long)


def _write(out: Path, found: Sequence[Labelled]) -> None:
    """Writes the file, whole or not at all. A table has the likeliest label alone."""
    rows = [one.to_dict() for one in found]
    if out.suffix == ".jsonl":
        store.write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    names = ["id", "text", "label", "predicted", "probability", "log_prob"]
    plain = [{name: row.get(name) for name in names} for row in rows]
    if out.suffix == ".csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain)
        store.write_text(out, buffer.getvalue())
        return
    import pyarrow as pa

    texts, numbers = pa.string(), pa.float64()
    kinds = dict(zip(names, (texts, texts, texts, texts, numbers, numbers), strict=True))
    write_table(out, pa.Table.from_pylist(plain, schema=pa.schema(kinds)))
