"""Which of several models makes held-out documents, or blocks of few, most likely, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from thetahat.core.errors import DataError
from thetahat.ledger.ledger import LedgerRow
from thetahat.ledger.summary import joined_blocks
from thetahat.statistics.interval import Interval, exact_sum, ratio_error, ratio_interval, sum_by


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be chosen, and the rows that it got."""

    name: str
    step: int
    is_average: bool
    rows: Sequence[LedgerRow]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one candidate does, in the unit of its selection; errors are standard errors over documents, or blocks."""

    name: str
    step: int
    is_average: bool
    value: float  # bits per byte, or nats per label of a classifier
    error: float  # of the value itself: how it would change with other documents
    behind: float  # how much more than the best
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
    training_noise: float  # of the value, over the later half of the checkpoints; NaN with fewer than 3
    num_units: int  # documents, or blocks of few
    is_of_labels: bool = False

    @property
    def unit(self) -> str:
        """Of the values."""
        return "nats per label" if self.is_of_labels else "bits per byte"


def choose(candidates: Sequence[Candidate]) -> Selection:
    r"""The candidate with the highest likelihood, and the earliest that is as good within one standard error.

    `behind` is $\sum_i (\ell^*_i - \ell_i) / (\ln 2 \sum_i b_i)$ over documents i of $b_i$ bytes, $\ell^*$ being of the
    best, and its error that of a ratio of sums over documents, paired; of a classifier it is in nats, divided by the
    number of labels. The best of many is better than it will turn out to be on other documents, the more so the more
    candidates there are: report it on documents that chose nothing.

    Breiman et al., Classification and Regression Trees, 1984, 3.4.3 (the rule of one standard error).
    """
    documents, amounts, size = _by_document(candidates)
    totals = [exact_sum(row) for row in amounts]
    if not all(math.isfinite(total) for total in totals):
        sick = next(one.name for one, total in zip(candidates, totals, strict=True) if not math.isfinite(total))
        raise DataError(f"the likelihood under {sick} is not finite", cure="thetahat score names the documents")
    best = min(range(len(candidates)), key=lambda index: (totals[index], candidates[index].step))
    standings: list[Standing] = []
    for one, found in zip(candidates, amounts, strict=True):
        estimate, error = ratio_error(found, size)
        behind, behind_error = ratio_error(found - amounts[best], size)
        standings.append(Standing(one.name, one.step, one.is_average, estimate, error, behind, behind_error))
    singles = [index for index, one in enumerate(candidates) if not one.is_average and standings[index].is_as_good]
    one_error = min(singles, key=lambda index: candidates[index].step, default=best)
    curve = sorted((standing.step, standing.value) for standing in standings if not standing.is_average)
    late = [point for point in curve if 2 * point[0] >= curve[-1][0]]  # early on, what bends fast would pass for noise
    noise = training_noise(late if len(late) >= 3 else curve[-3:])
    return Selection(standings, best, one_error, noise, len(documents), _are_of_labels(candidates))


def training_noise(curve: Sequence[tuple[int, float]]) -> float:
    r"""The standard deviation of independent noise on a smooth curve of points $(t_i, y_i)$, $t$ ascending.

    $\sigma^2 = \frac{1}{n - 2} \sum_i \frac{(a_i y_{i-1} - y_i + b_i y_{i+1})^2}{a_i^2 + 1 + b_i^2}$: how far each is
    from the line through its neighbours, $a_i = (t_{i+1} - t_i) / (t_{i+1} - t_{i-1})$, $b_i = 1 - a_i$, so what bends
    slowly cancels, whatever the steps between. NaN with fewer than three points.

    Gasser, Sroka and Jennen-Steinmetz, 1986, Biometrika 73 (3).
    """
    if len(curve) < 3:
        return math.nan
    t, y = np.asarray(curve, dtype=np.float64).T
    a = (t[2:] - t[1:-1]) / (t[2:] - t[:-2])
    residual = a * y[:-2] - y[1:-1] + (1 - a) * y[2:]
    return math.sqrt(float(np.mean(residual**2 / (a**2 + 1 + (1 - a) ** 2))))


def gain(chosen: Sequence[LedgerRow], other: Sequence[LedgerRow]) -> Interval:
    """What `chosen` saves over `other` on the same documents, bits per byte or nats per label, with a 95% interval."""
    _, amounts, size = _by_document([Candidate("chosen", 0, False, chosen), Candidate("other", 0, False, other)])
    return ratio_interval(amounts[1] - amounts[0], size)


def as_blocks(rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    """A row for each block of 1,024 tokens, which stands for a document where documents are too few to choose by."""
    return [
        replace(
            rows[0],
            id=f"block-{number}",
            document=f"block-{number}",
            part="block",
            digest="",
            blocks=(),
            num_tokens=block.num_tokens,
            num_bytes=block.num_bytes,
            log_prob=block.log_prob,
        )
        for number, block in enumerate(joined_blocks(rows))
    ]


@runtime_checkable
class Text(Protocol):
    """What decides on which side a row falls."""

    @property
    def document(self) -> str: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102


SomeText = TypeVar("SomeText", bound=Text)


def halves(rows: Sequence[SomeText]) -> tuple[list[SomeText], list[SomeText]]:
    """Rows to choose by and to report on, by the digest of their text: no document and no text is on both sides."""
    chosen: list[SomeText] = []
    reported: list[SomeText] = []
    for row, digest in zip(rows, _kept_together(rows), strict=True):
        (chosen if int(digest[:8], 16) % 2 else reported).append(row)
    return chosen, reported


def _kept_together(rows: Sequence[Text]) -> list[str]:
    """For each row the smallest digest of all that a document, or a text, ties to it, however long that chain."""
    leader: dict[tuple[int, str], tuple[int, str]] = {}  # (0, digest) or (1, document): towards its smallest

    def find(key: tuple[int, str]) -> tuple[int, str]:
        while leader.setdefault(key, key) != key:
            leader[key] = key = leader[leader[key]]
        return key

    for row in rows:
        low, high = sorted((find((0, row.digest)), find((1, row.document))))
        leader[high] = low
    return [find((0, row.digest))[1] for row in rows]


def _by_document(candidates: Sequence[Candidate]) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """The documents, their bits under each candidate, [candidates, documents], and their bytes; nats and labels."""
    first = candidates[0].rows
    for one in candidates[1:]:
        if [(row.id, row.part) for row in one.rows] != [(row.id, row.part) for row in first]:
            raise DataError(f"{one.name} was scored on other rows than {candidates[0].name}")
    clusters = [row.document for row in first]
    nats = -np.stack([sum_by(clusters, [row.log_prob for row in one.rows]) for one in candidates])
    documents = list(dict.fromkeys(clusters))
    if _are_of_labels(candidates):
        return documents, nats, sum_by(clusters, [row.num_tokens for row in first])
    return documents, nats / math.log(2), sum_by(clusters, [row.num_bytes for row in first])


def _are_of_labels(candidates: Sequence[Candidate]) -> bool:
    return any(row.predicted is not None for row in candidates[0].rows)


def plain(value: float) -> Any:
    """A number as `--json` prints it; null where there is none."""
    return None if math.isnan(value) else value
