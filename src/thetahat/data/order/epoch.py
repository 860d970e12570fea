"""The pieces of an epoch in the order of the data: in memory, or in files that are mapped where there are many."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from thetahat.core import store
from thetahat.data.config import DataConfig
from thetahat.data.corpus.columns import ColumnWriter, open_columns
from thetahat.data.corpus.corpus import Corpus, Ints
from thetahat.data.order.pack import Column, Cut, Pieces, enumerate_counts, take, total
from thetahat.data.order.plan import Plan, check_lengths, check_silent, plan_part, plan_training
from thetahat.data.read.cache import cache_folder, code_digest, is_whole, waiting_for

MOST_SPANS = 1 << 17  # that are planned at a time; a corpus with more has its pieces in files
MOST_TOKENS = 1 << 26
_OF_PIECES = tuple(one.name for one in fields(Pieces) if one.name not in {"row", "num_rows"})
_OF_PARTS = ("kept", "num_targets")
_OF_DOCUMENTS = ("record_tokens", "record_parts", "has_prompt")


@final
@dataclass(frozen=True, slots=True)
class Epoch:
    """Every piece that an epoch reads, what all pieces keep of each part, and what was left out."""

    plan: Plan  # its rows are its units
    starts: Column | None  # the first piece of each unit; None: every piece is one
    cut: Cut
    digest: str  # of all that the pieces depend on

    @property
    def num_units(self) -> int:
        """How many units there are."""
        return len(self.plan.pieces if self.starts is None else self.starts)

    def units(self, number: Ints) -> Pieces:
        """The pieces of these units, in this order."""
        if self.starts is None:
            return take(self.plan.pieces, number)
        first = self.starts[number].astype(np.int64)
        after = self.starts[np.minimum(number + 1, len(self.starts) - 1)]
        last = np.where(number + 1 < len(self.starts), after, len(self.plan.pieces))
        unit, place = enumerate_counts(last - first)
        return take(self.plan.pieces, first[unit] + place)

    def first_unit(self, span: int) -> int:
        """How many units begin before this span, and so the first one of a document that begins with it."""
        piece = _found(self.plan.pieces.span, span)
        return piece if self.starts is None else _found(self.starts, piece)


def _found(column: Column, value: int) -> int:
    """Where it stands in an ascending column, which is not copied to be of another dtype."""
    return int(np.searchsorted(column, np.asarray(value, column.dtype)))


def plan_epoch(corpus: Corpus, config: DataConfig, phase: Ints | None, told: tuple[int, ...]) -> Epoch:
    """The epoch; `told` is what the phase depends on.

    A corpus of many spans is planned a part at a time. What was planned is kept, and mapped: a run that goes on finds
    it there.
    """
    digest = _digest(corpus, config, told)
    if len(corpus.lengths) <= MOST_SPANS:
        plan, cut = plan_training(corpus, config, phase)
        starts = plan.pieces.unit_starts
        return Epoch(plan, None if len(starts) == len(plan.pieces) else starts, cut, digest)
    cache = cache_folder("plans")
    folder = cache / digest
    with waiting_for(cache / f".{digest}.lock"):
        if not is_whole(folder):
            check_lengths(corpus, config)
            with store.publishing(folder) as partial:
                _write(partial, corpus, config, phase)
    return _open(folder, digest)


def _digest(corpus: Corpus, config: DataConfig, told: tuple[int, ...]) -> str:
    policy = config.context, config.source_context, config.over_long, config.unsupervised
    sizes = corpus.num_documents, corpus.num_parts, len(corpus.lengths), len(corpus.tokens)
    key = json.dumps([code_digest(), corpus.fingerprint, corpus.layout.name, sizes, policy, told])
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def _write(folder: Path, corpus: Corpus, config: DataConfig, phase: Ints | None) -> None:
    is_small = max(len(corpus.tokens), len(corpus.lengths), corpus.num_parts) < 2**31
    dtype = np.int32 if is_small else np.int64
    num_pieces = num_units = num_spans = 0
    cuts: list[Cut] = []
    silent: list[Ints] = []
    with ColumnWriter(folder) as writer:
        for first, last in _chunks(corpus):
            part = corpus.part_of_it(first, last)
            num = len(part.lengths)
            planned = plan_part(part, config, None if phase is None else phase[num_spans : num_spans + num])
            plan, pieces = planned.plan, planned.plan.pieces
            starts = pieces.unit_starts
            unit = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(pieces))) + num_units
            columns = {name: getattr(pieces, name) for name in _OF_PIECES}
            columns |= {"span": pieces.span + num_spans, "unit": unit, "starts": starts + num_pieces}
            columns |= {name: getattr(plan, name) for name in (*_OF_PARTS, *_OF_DOCUMENTS)}
            writer.add({name: _as(values, dtype) for name, values in columns.items()})
            num_pieces, num_units, num_spans = num_pieces + len(pieces), num_units + len(starts), num_spans + num
            cuts.append(planned.cut)
            silent.append(planned.silent + first)
        check_silent(corpus, config, np.concatenate(silent))
        writer.facts = dataclasses.asdict(total(cuts))


def _as(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    return values if values.dtype == np.bool_ else values.astype(dtype)


def _chunks(corpus: Corpus) -> Iterator[tuple[int, int]]:
    """Runs of whole documents that have MOST_SPANS and MOST_TOKENS, or little more, or are one document."""
    spans = np.arange(MOST_SPANS, len(corpus.lengths), MOST_SPANS)
    tokens = np.arange(MOST_TOKENS, len(corpus.tokens), MOST_TOKENS)
    spans = np.concatenate([spans, np.searchsorted(corpus.offsets, tokens, side="right") - 1])
    edges = np.unique([0, *corpus.column["spans.document"][spans].tolist(), corpus.num_documents]).tolist()
    yield from itertools.pairwise(edges)


def _open(folder: Path, digest: str) -> Epoch:
    columns, facts = open_columns(folder)
    starts = columns["starts"] if len(columns["starts"]) < len(columns["span"]) else None
    unit = columns["unit"]
    pieces = Pieces(**{name: columns[name] for name in _OF_PIECES}, row=unit, num_rows=len(columns["starts"]))
    counts: dict[str, Any] = {name: columns[name] for name in (*_OF_PARTS, *_OF_DOCUMENTS)}
    return Epoch(Plan(pieces=pieces, **counts), starts, Cut(**facts), digest)
