"""Which checkpoint of a run maximises the likelihood of held-out text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from thetahat.core import store
from thetahat.core.errors import DataError, ModelError
from thetahat.core.plain import counted
from thetahat.data.corpus.corpus import Corpus
from thetahat.distribution.world import World, join_world
from thetahat.ledger.ledger import LedgerRow
from thetahat.ledger.selection import Candidate, Selection, as_blocks, choose, gain, halves, plain
from thetahat.ledger.summary import BLOCKS, Summary, count_of, summarize
from thetahat.run.folder.checkpoint import copy_parameters, save_parameters
from thetahat.run.folder.files import AVERAGE, MODEL, OPTIMIZER, FilesOf, all_checkpoints, is_there, step_of
from thetahat.run.folder.weights import Weights
from thetahat.scoring.likelihood import ledger_rows, score_corpus
from thetahat.statistics.interval import BLOCK_TOKENS, Interval
from thetahat.verbs.load import Loaded, load
from thetahat.verbs.score import corpus_of, metadata_of

DOCUMENTS = "documents"
FEWEST = 2  # documents, or blocks, on each side
logger = getLogger("thetahat")


@dataclass(frozen=True, slots=True)
class Reported:
    """The likelihood that a chosen model gives to documents on which nothing was chosen."""

    name: str
    summary: Summary
    gain: Interval  # bits per byte, or nats per label, that it saves over the last checkpoint there, paired

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        low, high = plain(self.gain.low), plain(self.gain.high)
        ends = None if low is None else [low, high]
        of_last = {"saves_over_last": plain(self.gain.estimate), "saves_over_last_ci95": ends}
        return {"name": self.name} | self.summary.to_dict() | of_last


@dataclass(frozen=True, slots=True)
class Selected:
    """The choice, with the likelihoods to expect."""

    selection: Selection
    best: Reported
    one_error: Reported
    last: Reported
    num_report_units: int  # documents, or blocks of few
    unit: str  # what errors and intervals are over: "documents", or "blocks of 1,024 tokens of 1 document"
    metadata: dict[str, str]  # what was scored, and how

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        standings, key = self.selection.standings, self.selection.unit.replace(" ", "_")
        candidates = [
            {name: getattr(standing, name) for name in ("name", "step", "is_average", "behind")}
            | {key: standing.value, "error": plain(standing.error), "behind_error": plain(standing.behind_error)}
            for standing in standings
        ]
        report = {"best": self.best, "one_standard_error": self.one_error, "last": self.last}
        return {
            "best": standings[self.selection.best].name,
            "one_standard_error": standings[self.selection.one_error].name,
            "candidates": candidates,
            "training_noise": plain(self.selection.training_noise),
            "interval_unit": self.unit,
            "num_units": self.selection.num_units,
            "num_report_units": self.num_report_units,
            "metadata": self.metadata,
            "report": {role: reported.to_dict() for role, reported in report.items()},
        }


def select(
    run: str,
    data: Sequence[str] = (),
    *,
    report: Sequence[str] = (),
    averages: int = 5,
    save: Path | None = None,
    overrides: Sequence[str] = (),
) -> Selected:
    """Scores every checkpoint of `run`, its moving average, and means of the last 2 to `averages`, and chooses.

    Half of the documents of `data` choose (by the digest of their text), the other half, or `report`, say how good the
    choice is. Where a side would have fewer than two documents, blocks of 1,024 tokens take their place, and
    every other one chooses. Without `data`: what the run held out. `save` gets the best, as a checkpoint folder.
    """
    if save:
        store.check_target(save, "--save")
    models = _models(Path(run), averages)
    loaded = load(str(models[-1].folder), tuple(overrides))
    world = join_world(loaded.inference.device)
    corpora = [corpus_of(loaded, some, world) for some in ((data, report) if report else (data,))]
    texts = [_texts(corpus) for corpus in corpora]
    unit = _unit(texts, data)
    sets: list[list[Sequence[LedgerRow]]] = []
    for number, model in enumerate(models, start=1):
        scored = [_rows(loaded, model, corpus, world) for corpus in corpora]
        sets.append(_sides(scored, unit))
        if world.is_first:
            logger.info("scored %s, %d of %d", model.name, number, len(models))
    candidates = [
        Candidate(model.name, step_of(model.folder), model.is_average, rows[0])
        for model, rows in zip(models, sets, strict=True)
    ]
    selection = choose(candidates)
    last = max(range(len(models)), key=lambda index: (not models[index].is_average, step_of(models[index].folder)))
    num_documents = len({row.document for row in texts[-1]})

    def reported(index: int) -> Reported:
        summary = summarize(sets[index][1])
        if unit != DOCUMENTS:
            summary = replace(summary, num_documents=num_documents, interval_unit=unit)
        return Reported(models[index].name, summary, gain(sets[index][1], sets[last][1]))

    if save and world.is_first:
        _save(save, models[selection.best], loaded)
    num_reported = len({row.document for row in sets[0][1]})
    three = (reported(index) for index in (selection.best, selection.one_error, last))
    metadata = _metadata(loaded, data, report, corpora)
    return Selected(selection, *three, num_report_units=num_reported, unit=unit, metadata=metadata)


def _metadata(loaded: Loaded, data: Sequence[str], report: Sequence[str], corpora: Sequence[Corpus]) -> dict[str, str]:
    """What was scored, and how, as in the metadata of score's ledgers, for the texts that choose."""
    names = "\n".join(report) or "the other half of what chooses"
    told = metadata_of(loaded, corpora[0], data) | {"model": str(loaded.folder.parent.parent)}
    return told | {"report": corpora[-1].fingerprint, "report_paths": names}


def _models(run: Path, averages: int) -> list[Weights]:
    """The checkpoints that are whole, oldest first, their moving averages, and the means of the last ones."""
    if not run.is_dir():
        raise ModelError(f"there is no folder {run}", allowed="a run folder", cure="thetahat train makes one, in runs/")
    whole: list[Path] = []
    for folder in all_checkpoints(run):
        try:
            store.verify(folder)
        except ModelError as error:
            logger.warning("not a candidate: %s", error)
        else:
            whole.append(folder)
    if len(whole) < 2:
        raise ModelError(
            f"{run} has {counted(len(whole), 'whole checkpoint')}: there is nothing to choose from",
            allowed="a run folder with two or more",
            cure="thetahat train RECIPE checkpoint.every=100 checkpoint.keep=50",
        )
    singles = [Weights((folder,)) for folder in whole]
    trained = [folder for folder in whole if step_of(folder) > 0]
    moving = [Weights((folder,), is_moving=True) for folder in trained if is_there(folder / AVERAGE)]
    counts = range(2, min(averages, len(trained)) + 1)
    return [*singles, *moving, *(Weights(tuple(trained[-count:])) for count in counts)]


def _rows(loaded: Loaded, model: Weights, corpus: Corpus, world: World) -> list[LedgerRow]:
    copy_parameters(loaded.model, model.tensors(), model.name)
    likelihoods = score_corpus(loaded.model, corpus, loaded.policy, world, loaded.device)
    return ledger_rows(likelihoods, corpus, loaded.card.labels)


class _Text(NamedTuple):
    """A part of a record that will have a row, before anything is scored."""

    id: str
    document: str
    digest: str
    num_tokens: int


def _texts(corpus: Corpus) -> list[_Text]:
    kept = np.flatnonzero(~corpus.column["parts.is_prompt"] & (corpus.part_tokens > 0))
    parts = zip(corpus.describe(kept), corpus.digests(kept), corpus.part_tokens[kept].tolist(), strict=True)
    return [_Text(part.id, part.document, digest, num_tokens) for part, digest, num_tokens in parts]


def _unit(texts: Sequence[Sequence[_Text]], data: Sequence[str]) -> str:
    """The unit of the choice: documents, or blocks if documents are too few. It is known before scoring begins."""
    sides = texts if len(texts) == 2 else halves(texts[0])
    if shared := {row.digest for row in sides[0]} & {row.digest for row in sides[1]}:
        names = list(dict.fromkeys(row.id for row in sides[1] if row.digest in shared))
        raise DataError(
            f"{len(names)} documents would choose and be reported on: {', '.join(names[:3])}",
            cure=f"a --report that shares no text with {', '.join(data) or 'what the run held out'}",
        )
    if min(len({row.document for row in side}) for side in sides) >= FEWEST:
        return DOCUMENTS
    num_documents = len({row.document for side in sides for row in side})
    blocks = [sum(_num_blocks(row) for row in side) for side in texts]
    if min(blocks) < FEWEST * (3 - len(texts)):
        raise DataError(
            f"{counted(num_documents, 'document')} of {count_of(min(blocks), BLOCKS)} "
            f"{'are' if num_documents > 1 else 'is'} too little to choose by and to report on",
            allowed=f"at least {FEWEST} documents, or {BLOCKS}, on each side, better hundreds",
            cure="more data, or data.split_on=TEXT if the documents of a .txt stand between such",
        )
    return f"{BLOCKS} of {counted(num_documents, 'document')}"


def _num_blocks(text: _Text) -> int:
    return -(-text.num_tokens // BLOCK_TOKENS)


def _sides(scored: Sequence[Sequence[LedgerRow]], unit: str) -> list[Sequence[LedgerRow]]:
    """The rows that choose and those that are reported on: two data sets, or halves of one."""
    if unit == DOCUMENTS:
        return list(scored) if len(scored) == 2 else list(halves(scored[0]))
    blocks = [as_blocks(rows) for rows in scored]
    return [*blocks] if len(blocks) == 2 else [blocks[0][::2], blocks[0][1::2]]


@torch.no_grad()
def _save(target: Path, model: Weights, loaded: Loaded) -> None:
    """Publishes a folder like the last checkpoint of the model, with its parameters and without an optimizer."""
    copy_parameters(loaded.model, model.tensors(), model.name)
    with store.publishing(target) as folder:
        for name in store.names(model.folder):
            if name not in FilesOf((MODEL, OPTIMIZER, AVERAGE)):
                (folder / name).write_bytes((model.folder / name).read_bytes())
        save_parameters(loaded.model, folder)
