"""Which of several models makes held-out documents most likely, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thetahat.core.errors import DataError
from thetahat.evaluation.interval import Interval, exact_sum, ratio_error, ratio_interval, sum_by
from thetahat.evaluation.ledger import LedgerRow


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be chosen, and the rows that it got."""

    name: str
    step: int
    is_average: bool
    rows: Sequence[LedgerRow]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one candidate does; errors are standard errors over documents."""

    name: str
    step: int
    is_average: bool
    bits_per_byte: float
    error: float  # of bits_per_byte itself: how it would change with other documents
    behind: float  # bits per byte more than the best
    behind_error: float  # of `behind`, paired: much smaller, since hard documents are hard for all

    @property
    def is_as_good(self) -> bool:
        """Whether the best is ahead by no more than one standard error."""
        return self.behind <= self.behind_error or self.behind == 0


@dataclass(frozen=True, slots=True)
class Selection:
    """What the selection set says."""

    standings: list[Standing]  # in the order of the candidates
    best: int  # the highest likelihood
    one_error: int  # the earliest checkpoint that is within one standard error of it
    training_noise: float  # bits per byte, of the later half of the checkpoints; NaN with fewer than 3
    num_documents: int


def choose(candidates: Sequence[Candidate]) -> Selection:
    r"""The candidate with the highest likelihood, and the earliest that is as good within one standard error.

    `behind` is $\sum_i (\ell^*_i - \ell_i) / (\ln 2 \sum_i b_i)$ over documents i of $b_i$ bytes, $\ell^*$ being of the
    best, and its error that of a ratio of sums over documents, paired. The best of many is better than it will turn out
    to be on other documents, the more so the more candidates there are: report it on documents that chose nothing.

    Breiman et al., Classification and Regression Trees, 1984, 3.4.3 (the rule of one standard error).
    """
    documents, bits, size = _by_document(candidates)
    totals = [exact_sum(row) for row in bits]
    if not all(math.isfinite(total) for total in totals):
        sick = next(one.name for one, total in zip(candidates, totals, strict=True) if not math.isfinite(total))
        raise DataError(f"the likelihood under {sick} is not finite", cure="thetahat score names the documents")
    best = min(range(len(candidates)), key=lambda index: (totals[index], candidates[index].step))
    standings: list[Standing] = []
    for one, found in zip(candidates, bits, strict=True):
        estimate, error = ratio_error(found, size)
        behind, behind_error = ratio_error(found - bits[best], size)
        standings.append(Standing(one.name, one.step, one.is_average, estimate, error, behind, behind_error))
    singles = [index for index, one in enumerate(candidates) if not one.is_average and standings[index].is_as_good]
    one_error = min(singles, key=lambda index: candidates[index].step, default=best)
    curve = [standing.bits_per_byte for standing in standings if not standing.is_average]
    curve = curve[min(len(curve) // 2, max(len(curve) - 3, 0)) :]  # early on, what bends fast would pass for noise
    return Selection(standings, best, one_error, training_noise(curve), len(documents))


def training_noise(curve: Sequence[float]) -> float:
    r"""The standard deviation of independent noise on a smooth curve, from its second differences.

    $\sigma^2 = \frac{1}{6 (n - 2)} \sum_i (y_{i-1} - 2 y_i + y_{i+1})^2$: what bends slowly cancels, and independent
    noise of variance $\sigma^2$ makes each second difference vary by $6 \sigma^2$. NaN with fewer than three points.

    Gasser, Sroka and Jennen-Steinmetz, 1986, Biometrika 73 (3).
    """
    if len(curve) < 3:
        return math.nan
    return math.sqrt(float(np.mean(np.diff(np.asarray(curve, dtype=np.float64), 2) ** 2)) / 6)


def gain(chosen: Sequence[LedgerRow], other: Sequence[LedgerRow]) -> Interval:
    """Bits per byte that `chosen` saves over `other` on the same documents, paired, with a 95% interval."""
    _, bits, size = _by_document([Candidate("chosen", 0, False, chosen), Candidate("other", 0, False, other)])
    return ratio_interval(bits[1] - bits[0], size)


def halves(rows: Sequence[LedgerRow]) -> tuple[list[LedgerRow], list[LedgerRow]]:
    """Rows to choose by and rows to report on: whole records, by the digest of their text."""
    chosen: list[LedgerRow] = []
    reported: list[LedgerRow] = []
    for row in rows:
        (chosen if int(row.digest[:8], 16) % 2 else reported).append(row)
    return chosen, reported


def _by_document(candidates: Sequence[Candidate]) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """The documents, their bits under each candidate, [candidates, documents], and their bytes."""
    first = candidates[0].rows
    for one in candidates[1:]:
        if [(row.id, row.part) for row in one.rows] != [(row.id, row.part) for row in first]:
            raise DataError(f"{one.name} was scored on other rows than {candidates[0].name}")
    clusters = [row.document for row in first]
    bits = np.stack([sum_by(clusters, [row.log_prob for row in one.rows]) for one in candidates]) / -math.log(2)
    return list(dict.fromkeys(clusters)), bits, sum_by(clusters, [row.num_bytes for row in first])


def plain(value: float) -> Any:
    """A number as `--json` prints it; null where there is none."""
    return None if math.isnan(value) else value
