"""The order of training: a pure function of (seed, position), whatever was asked before and however many ranks ask."""

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
from thetahat.data.corpus import Corpus
from thetahat.data.pack import Cut, Ints, Pieces, cut, gather, lay, take


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
        self._planned: tuple[int, Pieces, Cut] | None = None
        self.cut: Cut = self._plan(0)[1]  # of epoch 0; the others differ in where they split alone
        if not self.cut.num_tokens:
            raise DataError(f"nothing is left: {self.cut}", cure="data.over_long=split, or a larger data.context")

    def num_batches(self, epoch: int) -> int:
        """Global batches in an epoch; it varies only where `shifts_splits` moves the cuts."""
        if not self._config.shifts_splits:
            epoch = 0  # the same sizes fill the same number of rows in any order
        while len(self._num_batches) <= epoch:
            pieces, _ = self._plan(len(self._num_batches))
            self._num_batches.append(-(-pieces.num_rows // self._batch_size))
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
        plan, _ = self._plan(epoch)
        first, last = np.searchsorted(plan.row, [batch * self._batch_size, (batch + 1) * self._batch_size])
        return plan, np.arange(first, last)

    def packed(
        self, position: int, rank: int = 0, world_size: int = 1, micro_batch_size: int | None = None
    ) -> list[Packed]:
        """This rank's rows of a global batch, those with i % world_size = rank, in micro-batches; there may be none."""
        plan, index = self.batch(position)
        row = plan.row[index] - (plan.row[index[0]] if len(index) else 0)
        index, turn = index[row % world_size == rank], row[row % world_size == rank] // world_size
        step = micro_batch_size or self._batch_size
        bounds = np.searchsorted(turn, np.arange(0, int(turn.max(initial=-1)) + 1 + step, step))
        return [gather(self._corpus, plan, index[low:high]) for low, high in itertools.pairwise(bounds)]

    def sequences(self, position: int) -> list[tuple[str, int]]:
        """What the global batch holds: the id of each piece's document, and where the piece starts in its sequence."""
        plan, index = self.batch(position)
        ids = self._corpus.documents["id"].take(plan.document[index]).to_pylist()
        return list(zip(ids, plan.start[index].tolist(), strict=True))

    def fingerprint(self, position: int) -> str:
        """A short digest of what the global batch holds and of its tokens."""
        plan, index = self.batch(position)
        digest = hashlib.blake2b(repr(self.sequences(position)).encode(), digest_size=8)
        digest.update(gather(self._corpus, plan, index).tokens.numpy().tobytes())
        return digest.hexdigest()

    def _plan(self, epoch: int) -> tuple[Pieces, Cut]:
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, *self._make_plan(epoch))
        return self._planned[1:]

    def _make_plan(self, epoch: int) -> tuple[Pieces, Cut]:
        config = self._config
        pieces, report = cut(
            self._corpus.lengths, config.context, config.over_long, phase=self._phase(epoch), name=self._name
        )
        shuffled = take(pieces, self._permutation(len(pieces), "order", epoch))
        laid = lay(shuffled, config.context, config.packing)
        row = self._permutation(laid.num_rows, "rows", epoch)[laid.row]
        return take(replace(laid, row=row), np.argsort(row, kind="stable")), report

    def _phase(self, epoch: int) -> Ints | None:
        """By how many targets the first block of each document is short."""
        if not self._config.shifts_splits:
            return None
        random = generator(self._seed, "phase", epoch)
        return torch.randint(self._config.context, (self._corpus.num_documents,), generator=random).numpy()

    def _permutation(self, size: int, purpose: str, epoch: int) -> Ints:
        return torch.randperm(size, generator=generator(self._seed, purpose, epoch)).numpy()

    def _name(self, document: int) -> str:
        return self._corpus.documents["id"][document].as_py()
