"""Which source fills which row: drawn by their shares, a pure function of (seed, row)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float64

from thetahat.core.random import derived_seed, generator, uniform
from thetahat.data.corpus.corpus import Ints

BLOCK = 1 << 10  # rows that are drawn together


@dataclass(frozen=True, slots=True)
class _Phase:
    """From this row on these shares hold, until a source is used up."""

    first: int
    counts: Ints  # [sources], rows that each has filled before
    edges: Float64[np.ndarray, " n"]  # [sources + 1], sums of shares, 0 to 1


@final
class Mixture:
    r"""A sequence of rows, in which source $s$ fills a share $w_s / \sum_r w_r$.

    In each block of BLOCK rows a source fills as many as its share says, rounded up or down at random so that the
    expectation is exact (systematic sampling: one number $u$ in [0, 1) a block, and of the points $k + u$ those of a
    source lie between the sums of the shares before it and up to it); which of the block's rows they are is a random
    permutation. A source that has filled `limits[s]` rows is used up, and from then on its share goes to the others by
    theirs.
    """

    def __init__(self, seed: int, shares: Sequence[float], limits: Sequence[int | None]) -> None:
        self._seed, self._weights = seed, np.array(shares, np.float64)
        self._limits = np.array([np.iinfo(np.int64).max if limit is None else limit for limit in limits])
        self._known = (0, 0, np.zeros(len(shares), np.int64))  # phase, block, and what was filled up to it
        self._phases = [_Phase(0, np.zeros(len(shares), np.int64), self._edges(np.ones(len(shares), np.bool_)))]
        self.num_rows: int | None = None  # after which all sources are used up; None: never
        self._find_phases()

    def counts(self, row: int) -> Ints:
        """[sources], how many of the first `row` rows each has filled."""
        number = self._phase_of(row)
        phase = self._phases[number]
        block, place = divmod(row - phase.first, BLOCK)
        found = phase.counts + self._filled(number, block)
        return found + (np.bincount(self._block(number, block)[:place], minlength=len(found)) if place else 0)

    def sources(self, first: int, last: int) -> Ints:
        """The source of each of the rows `first` to `last` (exclusive)."""
        found: list[Ints] = [np.empty(0, np.int64)]
        while first < last:
            number = self._phase_of(first)
            block, place = divmod(first - self._phases[number].first, BLOCK)
            end = self._phases[number + 1].first if number + 1 < len(self._phases) else last
            found.append(self._block(number, block)[place : place + min(last, end) - first])
            first += len(found[-1])
        return np.concatenate(found)

    def _edges(self, is_left: np.ndarray) -> Float64[np.ndarray, " n"]:
        weights = self._weights * is_left
        edges = np.concatenate([[0.0], np.cumsum(weights / weights.sum())])
        edges[np.flatnonzero(weights)[-1] + 1 :] = 1.0  # exactly, whatever was rounded
        return edges

    def _find_phases(self) -> None:
        """Where a source is used up the next phase begins."""
        is_left = np.ones(len(self._weights), np.bool_)
        while (self._limits[is_left] < np.iinfo(np.int64).max).any():
            number = len(self._phases) - 1
            first = self._phases[number].first + self._first_end(number, is_left)
            counts = self._counts_at(number, first)
            is_left &= counts < self._limits
            if not is_left.any():
                self.num_rows = first
                return
            self._phases.append(_Phase(first, counts, self._edges(is_left)))

    def _counts_at(self, number: int, row: int) -> Ints:
        phase = self._phases[number]
        block, place = divmod(row - phase.first, BLOCK)
        some = np.bincount(self._block(number, block)[:place], minlength=len(phase.counts))
        return phase.counts + self._filled(number, block) + some

    def _first_end(self, number: int, is_left: np.ndarray) -> int:
        """How many rows of a phase are filled when a source is used up."""
        room = (self._limits - self._phases[number].counts)[is_left]

        def is_over(blocks: int) -> bool:
            return bool((self._filled(number, blocks)[is_left] >= room).any())

        low, high = 0, 1
        while not is_over(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_over(middle) else (middle, high)
        fills = self._block(number, low)[:, None] == np.flatnonzero(is_left)
        filled = self._filled(number, low)[is_left] + np.cumsum(fills, 0)
        return low * BLOCK + 1 + int(np.argmax((filled >= room).any(1)))

    def _phase_of(self, row: int) -> int:
        return int(np.searchsorted([phase.first for phase in self._phases], row, side="right")) - 1

    def _filled(self, number: int, blocks: int) -> Ints:
        """[sources], rows of the first blocks of a phase."""
        phase, block, found = self._known
        if (phase, block) != (number, min(block, blocks)):
            block, found = 0, np.zeros_like(found)
        while block < blocks:
            some = np.arange(block, min(blocks, block + (1 << 16)))
            found = found + self._quotas(number, some).sum(0)
            block += len(some)
        self._known = number, blocks, found
        return found

    def _quotas(self, number: int, blocks: Ints) -> Ints:
        """[blocks, sources], how many rows of each block each source fills."""
        seed = torch.tensor(derived_seed(self._seed, "quotas", number)).expand(len(blocks))
        offset = uniform(seed, torch.from_numpy(blocks)).numpy()
        points = np.ceil(self._phases[number].edges * BLOCK - offset[:, None]).astype(np.int64)
        return np.diff(points, axis=1)

    def _block(self, number: int, block: int) -> Ints:
        """The source of each row of a block."""
        sorted_ = np.repeat(np.arange(len(self._weights)), self._quotas(number, np.array([block]))[0])
        order = torch.randperm(BLOCK, generator=generator(self._seed, "sources", number, block)).numpy()
        return sorted_[order]
