"""The order of training: a pure function of (seed, position), whatever the number of ranks."""

import hashlib
import itertools
import sys
from bisect import bisect_left
from dataclasses import replace
from typing import final

import numpy as np
import torch

from thetahat.core.batch import Packed
from thetahat.core.errors import ConfigError, DataError
from thetahat.core.random import generator
from thetahat.data.config import DataConfig
from thetahat.data.corpus.corpus import Corpus, Ints
from thetahat.data.order.epoch import Epoch, plan_epoch
from thetahat.data.order.fit import fits_of
from thetahat.data.order.pack import Pieces
from thetahat.data.order.plan import Draw, Plan, gather, places
from thetahat.data.order.rows import Chosen, Place, Rows
from thetahat.data.order.sources import Sources, Use


@final
class TrainingOrder:
    """Global batches of `batch_size` rows, numbered by `position` from 0 through all epochs.

    An epoch is: documents cut into pieces, pieces shuffled, pieces packed into rows, rows shuffled (see `Rows`). Its
    last batch may be short; no batch spans two epochs. Of several sources each has epochs of its own, and a batch has
    rows of all of them (see `Mixture`).
    """

    def __init__(self, corpus: Corpus, config: DataConfig, seed: int, batch_size: int) -> None:
        self._corpus, self._config, self._seed, self._batch_size = corpus, config, seed, batch_size
        self._planned: dict[int, Epoch] = {}
        first = self._epoch(0)
        self.cut = first.cut  # of epoch 0; the others differ in where they split alone
        if not self.cut.num_tokens:
            whole = ", or ".join(f"{fit.key}={fit.whole}" for fit in fits_of(corpus, config) if fit.behind)
            raise DataError(f"nothing is left: {self.cut}", cure=f"data.over_long=split, or {whole or 'other data'}")
        self._rows = Rows(corpus, self._epoch, config, seed)
        self._sources = Sources(corpus, self._epoch, config, seed) if config.sources else None

    def num_batches(self, epoch: int) -> int:
        """Global batches in an epoch; it varies only where `shifts_splits` moves the cuts."""
        if self._sources:
            return sys.maxsize  # its sources have epochs, and it has one that does not end
        return -(-self._rows.num_rows(epoch) // self._batch_size)

    def locate(self, position: int) -> tuple[int, int]:
        """The epoch of a global batch, and its place in it."""
        if not self._config.shifts_splits or self._sources:
            return divmod(position, self.num_batches(0))
        epoch = 0
        while position >= self.num_batches(epoch):
            position -= self.num_batches(epoch)
            epoch += 1
        return epoch, position

    def batch(self, position: int) -> Chosen:
        """What a global batch reads."""
        if self._sources:
            return self._sources.batch(position * self._batch_size, (position + 1) * self._batch_size)
        epoch, batch = self.locate(position)
        first, size = batch * self._batch_size, self._batch_size
        pieces = self._rows.pieces(Place(epoch, first, min(first + size, self._rows.num_rows(epoch))))
        return Chosen(pieces, np.full(len(pieces), epoch))

    def targets_before(self, position: int) -> int:
        """How many targets the global batches before this one have, all together."""
        if self._sources:
            return self._sources.targets_before(position * self._batch_size)
        epoch, batch = self.locate(position)
        before = range(epoch) if self._config.shifts_splits else ()
        whole = sum(map(self._rows.num_targets, before)) if before else epoch * self._rows.num_targets()
        return whole + self._rows.targets_before(epoch, batch * self._batch_size)

    def uses(self, first: int, last: int) -> list[Use]:
        """What the global batches `first` to `last` (exclusive) read of each source; nothing where there is one."""
        if not self._sources:
            return []
        if self._sources.num_rows is not None and last * self._batch_size > self._sources.num_rows:
            most = self._sources.num_rows // self._batch_size
            raise ConfigError(
                f"all of data.sources are used up after {most:,} batches, and max_steps asks for {last:,}",
                cure=f"max_steps={most - first}, a larger max_epochs, or a source without",
            )
        return self._sources.uses(first * self._batch_size, last * self._batch_size)

    def num_batches_with(self, num_targets: int, most: int, first: int = 0) -> int:
        """The fewest batches from `first` on, `most` at most, that have so many targets together."""
        wanted = self.targets_before(first) + num_targets
        return min(bisect_left(range(most + 1), wanted, key=lambda more: self.targets_before(first + more)), most)

    def plan(self, epoch: int) -> Plan:
        """Everything that an epoch reads, in the order of the data, and what it keeps of each part."""
        return self._epoch(epoch).plan

    def packed(
        self, position: int, rank: int = 0, world_size: int = 1, micro_batch_size: int | None = None
    ) -> list[Packed]:
        """This rank's rows of a global batch, those with i % world_size = rank, in micro-batches; there may be none."""
        chosen = self.batch(position)
        row = chosen.pieces.row
        index, turn = np.flatnonzero(row % world_size == rank), row[row % world_size == rank] // world_size
        step = micro_batch_size or self._batch_size
        bounds = np.searchsorted(turn, np.arange(0, int(turn.max(initial=-1)) + 1 + step, step))
        plan = replace(self.plan(0), pieces=chosen.pieces)  # the epochs differ in their pieces alone
        return [
            gather(self._corpus, plan, some, Draw(self._seed, chosen.epoch[some]))
            for some in (index[low:high] for low, high in itertools.pairwise(bounds))
        ]

    def sequences(self, position: int) -> list[tuple[str, int]]:
        """What the global batch holds: the id of each piece's document, and where the piece starts in its sequence."""
        return self._sequences(self.batch(position).pieces)

    def fingerprint(self, position: int) -> str:
        """A short digest of what the global batch holds and of its tokens."""
        pieces = self.batch(position).pieces
        digest = hashlib.blake2b(repr(self._sequences(pieces)).encode(), digest_size=8)
        digest.update(self._corpus.tokens[places(self._corpus, pieces)[-1]].astype(np.int64).tobytes())
        return digest.hexdigest()

    def _sequences(self, pieces: Pieces) -> list[tuple[str, int]]:
        ids = self._corpus.documents["id"].take(self._corpus.column["spans.document"][pieces.span]).to_pylist()
        return list(zip(ids, pieces.start.tolist(), strict=True))

    def _epoch(self, epoch: int) -> Epoch:
        epoch = epoch if self._config.shifts_splits else 0
        if (planned := self._planned.get(epoch)) is None:
            told = (self._seed, epoch) if self._config.shifts_splits else ()
            planned = plan_epoch(self._corpus, self._config, self._phase(epoch), told)
            kept = [(number, one) for number, one in self._planned.items() if number == 0][:1]
            self._planned = dict([*kept, *list(self._planned.items())[-2:], (epoch, planned)])
        return planned

    def _phase(self, epoch: int) -> Ints | None:
        """By how many targets the first block of each document is short."""
        if not self._config.shifts_splits:
            return None
        random = generator(self._seed, "phase", epoch)
        return torch.randint(self._config.context, (len(self._corpus.lengths),), generator=random).numpy()
