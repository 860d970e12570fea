"""The rows of several sources, each with epochs of its own, in global batches that have rows of all of them."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from thetahat.core.errors import DataError
from thetahat.core.random import derived_seed
from thetahat.data.config import DataConfig
from thetahat.data.corpus.corpus import Corpus
from thetahat.data.order.epoch import Epoch
from thetahat.data.order.mixture import Mixture
from thetahat.data.order.pack import Pieces, joined
from thetahat.data.order.rows import Chosen, Rows


@dataclass(frozen=True, slots=True)
class Use:
    """What a run reads of a source."""

    name: str
    share: float  # of the rows of the run
    filled: int  # rows, from row 0 on
    epochs: float  # likewise
    num_rows: int  # of an epoch, the first
    num_targets: int  # likewise
    is_used_up: bool

    def __str__(self) -> str:
        of = f"{self.epochs:.2f} epochs of {self.num_rows:,} rows with {self.num_targets:,} targets"
        return f"source {self.name}: {self.share:.2%} of the rows, {of}{', then used up' if self.is_used_up else ''}"


@final
class Sources:
    """Global batches in which every row is filled from one of several sources, as their shares say."""

    def __init__(self, corpus: Corpus, epochs: Callable[[int], Epoch], config: DataConfig, seed: int) -> None:
        self._names = sorted(config.sources)
        of, kept = corpus.documents["source"], corpus.num_documents
        edges = [bisect_left(range(kept), name, key=lambda index: of[index].as_py()) for name in self._names]
        ends = list(zip(edges, [*edges[1:], kept], strict=True))
        self._rows = [
            Rows(corpus, epochs, config, derived_seed(seed, f"source {name}"), end)
            for name, end in zip(self._names, ends, strict=True)
        ]
        for name, rows in zip(self._names, self._rows, strict=True):
            if not rows.num_rows():
                raise DataError(f"nothing is left of data.sources.{name} to train on", cure="leave it out")
        sources = [config.sources[name] for name in self._names]
        sizes = [rows.num_targets() ** (1 / (config.temperature or 1.0)) for rows in self._rows]
        shares = [float(size if one.weight is None else one.weight) for one, size in zip(sources, sizes, strict=True)]
        self._limits = [
            None if one.max_epochs is None else sum(map(rows.num_rows, range(one.max_epochs)))
            for one, rows in zip(sources, self._rows, strict=True)
        ]
        self._mixture = Mixture(seed, shares, self._limits)

    @property
    def num_rows(self) -> int | None:
        """After how many rows all sources are used up; None: never."""
        return self._mixture.num_rows

    def batch(self, first: int, last: int) -> Chosen:
        """What the rows `first` to `last` (exclusive) of the run read, numbered from 0."""
        which, before = self._mixture.sources(first, last), self._mixture.counts(first)
        epoch = np.zeros(last - first, np.int64)
        found: list[Pieces] = []
        for number, rows in enumerate(self._rows):
            mine, start = np.flatnonzero(which == number), int(before[number])
            for place in rows.places(start, start + len(mine)):
                some, mine = mine[: place.last - place.first], mine[place.last - place.first :]
                pieces = rows.pieces(place)
                epoch[some] = place.epoch
                found.append(replace(pieces, row=some[pieces.row]))
        pieces = joined(found)
        return Chosen(pieces, epoch[pieces.row])

    def targets_before(self, row: int) -> int:
        """How many targets the first rows of the run have."""
        counts = self._mixture.counts(row).tolist()
        return sum(rows.targets_of(count) for rows, count in zip(self._rows, counts, strict=True))

    def uses(self, first: int, last: int) -> list[Use]:
        """What the rows `first` to `last` (exclusive) read of each source; epochs are counted from row 0."""
        before, after = self._mixture.counts(first), self._mixture.counts(last)
        found: list[Use] = []
        for number, (name, rows) in enumerate(zip(self._names, self._rows, strict=True)):
            filled = int(after[number])
            epoch, row = rows.locate(filled)
            share = (filled - int(before[number])) / max(last - first, 1)
            epochs, limit = epoch + row / rows.num_rows(epoch), self._limits[number]
            is_over = limit is not None and filled >= limit
            found.append(Use(name, share, filled, epochs, rows.num_rows(), rows.num_targets(), is_over))
        return found
