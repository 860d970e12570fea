"""The rows of one source, epoch after epoch: pieces shuffled, packed, and their rows shuffled."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import numpy as np
import torch

from thetahat.core import store
from thetahat.core.random import derived_seed, generator, permuted
from thetahat.data.config import DataConfig
from thetahat.data.corpus.corpus import Corpus, Ints
from thetahat.data.order.epoch import Epoch
from thetahat.data.order.pack import Pieces, joined, lay, num_rows_of, take
from thetahat.data.read.cache import cache_folder, code_digest, is_whole, waiting_for

WINDOW = 1 << 17  # units that are packed together
_HELD = 4  # windows that are kept: a batch may lie in two, and the next batch is prepared meanwhile
_COUNTS = "windows.json"


class Place(NamedTuple):
    """Rows `first` to `last` (exclusive) of an epoch."""

    epoch: int
    first: int
    last: int


class Chosen(NamedTuple):
    """The pieces of a global batch, row by row, and the epoch of each."""

    pieces: Pieces
    epoch: Ints


@dataclass(frozen=True, slots=True)
class _Window:
    pieces: Pieces
    targets: Ints  # [rows + 1], before each row


@dataclass(frozen=True, slots=True)
class _Counts:
    """Of each window."""

    rows: Ints
    targets: Ints


@final
class Rows:
    """An endless sequence of rows, in which every epoch has each unit of a run of documents once, in its own order.

    What has at most `WINDOW` units is shuffled and packed as a whole. What has more is dealt into windows of at most so
    many by one permutation of all units; an epoch visits the windows in its own order, and shuffles and packs each by
    itself. So one window at a time is in memory, and a window fills as many rows in every epoch.
    """

    def __init__(
        self,
        corpus: Corpus,
        epochs: Callable[[int], Epoch],
        config: DataConfig,
        seed: int,
        documents: tuple[int, int] | None = None,
    ) -> None:
        self._corpus, self._epochs, self._config, self._seed = corpus, epochs, config, seed
        ends = documents or (0, corpus.num_documents)
        self._spans = np.searchsorted(corpus.column["spans.document"], ends).tolist()
        self._held: dict[tuple[int, int], _Window] = {}
        self._counts: dict[int, _Counts] = {}

    def num_rows(self, epoch: int = 0) -> int:
        """Rows in an epoch; it varies only where `shifts_splits` moves the cuts."""
        return int(self._count(epoch).rows.sum())

    def num_targets(self, epoch: int = 0) -> int:
        """Targets in an epoch."""
        return int(self._count(epoch).targets.sum())

    def locate(self, row: int) -> tuple[int, int]:
        """The epoch of a row, and its place in it."""
        if not self._config.shifts_splits:
            return divmod(row, self.num_rows())
        epoch = 0
        while row >= self.num_rows(epoch):
            row -= self.num_rows(epoch)
            epoch += 1
        return epoch, row

    def places(self, first: int, last: int) -> list[Place]:
        """The rows `first` to `last` (exclusive) of all epochs together, epoch by epoch."""
        found: list[Place] = []
        epoch, row = self.locate(first) if first < last else (0, 0)
        while first < last:
            here = min(last - first, self.num_rows(epoch) - row)
            found.append(Place(epoch, row, row + here))
            first, epoch, row = first + here, epoch + 1, 0
        return found

    def pieces(self, place: Place) -> Pieces:
        """What lies in these rows, numbered from 0."""
        order, ends = self._visits(place.epoch)
        found: list[Pieces] = []
        row, index = place.first, int(np.searchsorted(ends, place.first, side="right"))
        while row < place.last:
            window, before = self._window(place.epoch, order[index]), int(ends[index - 1]) if index else 0
            low, high = row - before, min(place.last, int(ends[index])) - before
            start, stop = np.searchsorted(window.pieces.row, [low, high])
            some = take(window.pieces, np.arange(start, stop))
            found.append(replace(some, row=some.row - low + row - place.first, num_rows=high - low))
            row, index = before + high, index + 1
        return joined(found)

    def targets_before(self, epoch: int, row: int) -> int:
        """How many targets the first rows of an epoch have."""
        order, ends = self._visits(epoch)
        index = int(np.searchsorted(ends, row, side="right"))
        before = int(ends[index - 1]) if index else 0
        found = int(self._count(epoch).targets[order[:index]].sum())
        return found + (int(self._window(epoch, order[index]).targets[row - before]) if row > before else 0)

    def targets_of(self, num_rows: int) -> int:
        """How many targets the first rows of all epochs together have."""
        epoch, row = self.locate(num_rows)
        before = range(epoch) if self._config.shifts_splits else ()
        whole = sum(map(self.num_targets, before)) if before else epoch * self.num_targets()
        return whole + self.targets_before(epoch, row)

    def _units(self, epoch: int) -> tuple[int, int]:
        """The first unit, and how many there are."""
        planned = self._epochs(epoch)
        first, last = (planned.first_unit(span) for span in self._spans)
        return first, last - first

    def _num_windows(self, epoch: int) -> int:
        return max(1, -(-self._units(epoch)[1] // WINDOW))

    def _visits(self, epoch: int) -> tuple[list[int], Ints]:
        """The windows in the order in which an epoch visits them, and the rows up to the end of each."""
        num_windows = self._num_windows(epoch)
        order = self._permutation(num_windows, "windows", epoch) if num_windows > 1 else np.arange(1)
        return order.tolist(), np.cumsum(self._count(epoch).rows[order])

    def _count(self, epoch: int) -> _Counts:
        """Of each window its rows and targets: counted once, and kept where there are several."""
        epoch = epoch if self._config.shifts_splits else 0  # the same sizes fill as many rows in any order
        if epoch not in self._counts:
            self._counts[epoch] = self._counted(epoch) if self._num_windows(epoch) == 1 else self._kept(epoch)
        return self._counts[epoch]

    def _counted(self, epoch: int) -> _Counts:
        rows: list[int] = []
        targets: list[int] = []
        for window in range(self._num_windows(epoch)):
            pieces = self._epochs(epoch).units(self._dealt(epoch, window))
            rows.append(num_rows_of(pieces, self._config.context, self._config.packing))
            targets.append(int(self._targets(pieces).sum()))
        return _Counts(np.array(rows, np.int64), np.array(targets, np.int64))

    def _kept(self, epoch: int) -> _Counts:
        key = [code_digest(), self._epochs(epoch).digest, self._spans, self._seed, self._config.packing, WINDOW]
        name = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()
        cache = cache_folder("plans")
        with waiting_for(cache / f".{name}.lock"):
            if not is_whole(cache / name):
                counts = self._counted(epoch)
                with store.publishing(cache / name) as partial:
                    store.write_json(
                        partial / _COUNTS, {"rows": counts.rows.tolist(), "targets": counts.targets.tolist()}
                    )
        kept = json.loads((cache / name / _COUNTS).read_bytes())
        return _Counts(np.array(kept["rows"], np.int64), np.array(kept["targets"], np.int64))

    def _dealt(self, epoch: int, window: int) -> Ints:
        """The units of a window."""
        first, count = self._units(epoch)
        num_windows = self._num_windows(epoch)
        number = torch.arange(count * window // num_windows, count * (window + 1) // num_windows)
        if num_windows > 1:
            number = permuted(derived_seed(self._seed, "windows"), number, count)
        return first + number.numpy()

    def _window(self, epoch: int, window: int) -> _Window:
        key = epoch, window
        if (held := self._held.get(key)) is None:
            held = self._make_window(epoch, window)
            self._held = dict([*self._held.items(), (key, held)][-_HELD:])
        return held

    def _make_window(self, epoch: int, window: int) -> _Window:
        index = (epoch,) if self._num_windows(epoch) == 1 else (epoch, window)
        units = self._dealt(epoch, window)
        shuffled = units[self._permutation(len(units), "order", *index)]
        laid = lay(self._epochs(epoch).units(shuffled), self._config.context, self._config.packing)
        row = self._permutation(laid.num_rows, "rows", *index)[laid.row]
        pieces = take(replace(laid, row=row), np.argsort(row, kind="stable"))
        of_row = np.bincount(pieces.row, self._targets(pieces), pieces.num_rows).astype(np.int64)
        return _Window(pieces, np.concatenate([[0], np.cumsum(of_row)]))

    def _targets(self, pieces: Pieces) -> Ints:
        return self._corpus.targets_in(pieces.span, pieces.scored_from, pieces.stop)

    def _permutation(self, size: int, purpose: str, *index: int) -> Ints:
        return torch.randperm(size, generator=generator(self._seed, purpose, *index)).numpy()
