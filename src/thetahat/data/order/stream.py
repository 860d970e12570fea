"""The order of training: a pure function of (seed, position), whatever the number of ranks."""

import hashlib
import itertools
from dataclasses import replace
from typing import final

import numpy as np
import torch

from thetahat.core.batch import Packed
from thetahat.core.errors import DataError
from thetahat.core.random import generator
from thetahat.data.config import DataConfig
from thetahat.data.corpus.corpus import Corpus, Ints
from thetahat.data.order.pack import Cut, Pieces, lay, take, unit_pieces
from thetahat.data.order.plan import Draw, Plan, gather, plan_training


@final
class TrainingOrder:
    """Global batches of `batch_size` rows, numbered by `position` from 0 through all epochs.

    An epoch is: documents cut into pieces, pieces shuffled, pieces packed into rows, rows shuffled. Its last batch may
    be short; no batch spans two epochs.
    """

    def __init__(self, corpus: Corpus, config: DataConfig, seed: int, batch_size: int) -> None:
        self._corpus = corpus
        self._config = config
        self._seed = seed
        self._batch_size = batch_size
        self._num_batches: list[int] = []  # of each epoch known so far
        self._planned: tuple[int, Plan, Cut] | None = None
        self.cut: Cut = self._plan(0)[1]  # of epoch 0; the others differ in where they split alone
        if not self.cut.num_tokens:
            raise DataError(f"nothing is left: {self.cut}", cure="data.over_long=split, or a larger data.context")

    def num_batches(self, epoch: int) -> int:
        """Global batches in an epoch; it varies only where `shifts_splits` moves the cuts."""
        if not self._config.shifts_splits:
            epoch = 0  # the same sizes fill the same number of rows in any order
        while len(self._num_batches) <= epoch:
            plan = self.plan(len(self._num_batches))
            self._num_batches.append(-(-plan.pieces.num_rows // self._batch_size))
        return self._num_batches[epoch]

    def locate(self, position: int) -> tuple[int, int]:
        """The epoch of a global batch, and its place in it."""
        if not self._config.shifts_splits:
            return divmod(position, self.num_batches(0))
        epoch = 0
        while position >= self.num_batches(epoch):
            position -= self.num_batches(epoch)
            epoch += 1
        return epoch, position

    def batch(self, position: int) -> tuple[Pieces, Ints]:
        """The plan of this batch's epoch, and the indices of its pieces in it, row by row."""
        epoch, batch = self.locate(position)
        pieces = self.plan(epoch).pieces
        first, last = np.searchsorted(pieces.row, [batch * self._batch_size, (batch + 1) * self._batch_size])
        return pieces, np.arange(first, last)

    def num_targets(self, position: int) -> int:
        """How many targets a global batch has."""
        pieces, index = self.batch(position)
        found = self._corpus.targets_in(pieces.span[index], pieces.scored_from[index], pieces.stop[index])
        return int(found.sum())

    def plan(self, epoch: int) -> Plan:
        """Everything that an epoch reads, row by row."""
        return self._plan(epoch)[0]

    def gather(self, position: int, index: Ints) -> Packed:
        """Pieces of a global batch, by their indices in the plan of its epoch."""
        epoch, _ = self.locate(position)
        return gather(self._corpus, self.plan(epoch), index, Draw(self._seed, epoch))

    def packed(
        self, position: int, rank: int = 0, world_size: int = 1, micro_batch_size: int | None = None
    ) -> list[Packed]:
        """This rank's rows of a global batch, those with i % world_size = rank, in micro-batches; there may be none."""
        plan, index = self.batch(position)
        row = plan.row[index] - (plan.row[index[0]] if len(index) else 0)
        index, turn = index[row % world_size == rank], row[row % world_size == rank] // world_size
        step = micro_batch_size or self._batch_size
        bounds = np.searchsorted(turn, np.arange(0, int(turn.max(initial=-1)) + 1 + step, step))
        return [self.gather(position, index[low:high]) for low, high in itertools.pairwise(bounds)]

    def sequences(self, position: int) -> list[tuple[str, int]]:
        """What the global batch holds: the id of each piece's document, and where the piece starts in its sequence."""
        plan, index = self.batch(position)
        ids = self._corpus.documents["id"].take(self._corpus.column["spans.document"][plan.span[index]]).to_pylist()
        return list(zip(ids, plan.start[index].tolist(), strict=True))

    def fingerprint(self, position: int) -> str:
        """A short digest of what the global batch holds and of its tokens."""
        _, index = self.batch(position)
        digest = hashlib.blake2b(repr(self.sequences(position)).encode(), digest_size=8)
        digest.update(self.gather(position, index).tokens.numpy().tobytes())
        return digest.hexdigest()

    def _plan(self, epoch: int) -> tuple[Plan, Cut]:
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, *self._make_plan(epoch))
        return self._planned[1:]

    def _make_plan(self, epoch: int) -> tuple[Plan, Cut]:
        config = self._config
        plan, report = plan_training(self._corpus, config, self._phase(epoch))
        num_units = len(plan.pieces.unit_starts)
        shuffled = take(plan.pieces, unit_pieces(plan.pieces, self._permutation(num_units, "order", epoch)))
        laid = lay(shuffled, config.context, config.packing)
        row = self._permutation(laid.num_rows, "rows", epoch)[laid.row]
        pieces = take(replace(laid, row=row), np.argsort(row, kind="stable"))
        return replace(plan, pieces=pieces), report

    def _phase(self, epoch: int) -> Ints | None:
        """By how many targets the first block of each document is short."""
        if not self._config.shifts_splits:
            return None
        random = generator(self._seed, "phase", epoch)
        return torch.randint(self._config.context, (len(self._corpus.lengths),), generator=random).numpy()

    def _permutation(self, size: int, purpose: str, epoch: int) -> Ints:
        return torch.randperm(size, generator=generator(self._seed, purpose, epoch)).numpy()
