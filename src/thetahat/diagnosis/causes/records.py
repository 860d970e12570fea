"""Causes in the records: who drives the objective, and what was learned by heart."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import ndimage, stats

from thetahat.diagnosis.causes.case import Case, Rows
from thetahat.diagnosis.causes.cause import Cause
from thetahat.ledger.contribution import spread

FEWEST = 100  # records, of which the heaviest hundredth is one
DOMINATED = 0.25  # of all targets in the heaviest hundredth of the records
JUMP = 0.5  # of the nats at the first visit, against what all others did between the two
LEAST_TARGETS = 8  # of a row that is compared
LEAST = 10  # rows that jumped
CHANCE = 1e-3
WIDTH = 11  # steps whose median is the level of one
SHOWN = 3  # ids in a line


def dominated(case: Case) -> Iterator[Cause]:
    r"""The heaviest hundredth of the records holds more than a quarter of the targets.

    $N_\mathrm{eff} = (\sum_r n_r)^2 / \sum_r n_r^2$ of n targets a record is how many records of one length weigh as
    much. It is reported, and no change is proposed: the likelihood of a text is that of all its tokens.
    """
    if case.rows is None or len(case.rows.ids) < FEWEST:
        return
    of_record = np.bincount(case.rows.record, case.rows.targets, len(case.rows.ids))
    found = spread(of_record)
    if found.top_share > DOMINATED:
        order: list[int] = np.argsort(-of_record, kind="stable").tolist()
        heaviest = [case.rows.ids[number] for number in order[:SHOWN]]
        yield Cause(
            "length-dominated",
            "note",
            "certain",
            0,
            "few long records hold much of the objective",
            (
                f"the heaviest hundredth of {found.number:,} records holds {found.top_share:.1%} of the targets:"
                f" {', '.join(heaviest)}, ...",
                f"N_eff = {found.effective_number:,.0f}: as many records of one length weigh as much",
            ),
            "nothing: the likelihood of a text is that of all its tokens. Know that short records hardly count",
        )


class Visits(NamedTuple):
    """Texts that were read twice: the first two times."""

    first: Int64[np.ndarray, " v"]  # rows
    second: Int64[np.ndarray, " v"]
    change: Float64[np.ndarray, " v"]  # nats at the second over the first, against what all others did between them
    is_duplicate: Bool[np.ndarray, " v"]  # under another id


def visits(rows: Rows) -> Visits:
    r"""The first two visits of each text: $\frac{n_2 / \ell_2}{n_1 / \ell_1}$ with n its nats, l the level of the step.

    The level of a step is the median over WIDTH steps of the nats a target of all rows in it.
    """
    enough = np.flatnonzero((rows.targets >= LEAST_TARGETS) & (rows.nats > 0))
    key = np.stack([rows.text[enough], rows.targets[enough], rows.step[enough]])
    order = enough[np.lexsort(key[::-1])]
    same = (np.diff(rows.text[order]) == 0) & (np.diff(rows.targets[order]) == 0)
    is_first = np.concatenate([[True], ~same])[:-1] if len(order) else np.zeros(0, bool)
    pair = np.flatnonzero(same & is_first & (np.diff(rows.step[order]) > 0))
    first, second = order[pair], order[pair + 1]
    steps, at = np.unique(rows.step, return_inverse=True)
    nats, targets = (np.bincount(at, values, len(steps)) for values in (rows.nats, rows.targets))
    level = ndimage.median_filter(nats / np.maximum(targets, 1), min(WIDTH, max(len(steps), 1)), mode="nearest")
    relative = rows.nats / np.maximum(rows.targets, 1) / np.maximum(level[at], 1e-12)
    change = relative[second] / relative[first]
    return Visits(first, second, change, rows.record[first] != rows.record[second])


def memorised(case: Case) -> Iterator[Cause]:
    """Texts that became far likelier from their first visit to their second, beyond what all others did.

    As many would become far less likely by chance: a sign test compares the two (p < CHANCE).
    """
    if case.rows is None:
        return
    found = visits(case.rows)
    for is_duplicate in (True, False):
        of_kind = found.is_duplicate == is_duplicate
        jumped = of_kind & (found.change < JUMP)
        down, up = int(jumped.sum()), int((of_kind & (found.change > 1 / JUMP)).sum())
        if down < LEAST or float(stats.binom.sf(down - 1, down + up, 0.5)) > CHANCE:
            continue
        yield _memorised(case.rows, found, jumped, is_duplicate=is_duplicate)


def _memorised(rows: Rows, found: Visits, jumped: Bool[np.ndarray, " v"], *, is_duplicate: bool) -> Cause:
    shown = list[str]()
    for pair in zip(found.first[jumped][:SHOWN].tolist(), found.second[jumped][:SHOWN].tolist(), strict=True):
        first, second = (rows.ids[int(rows.record[row])] for row in pair)
        shown.append(f"{first} and {second}" if is_duplicate else first)
    of_kind = int((found.is_duplicate == is_duplicate).sum())
    median = float(np.median(found.change[jumped]))
    share = rows.targets[np.isin(rows.text, rows.text[found.first[jumped]])].sum() / max(rows.targets.sum(), 1)
    evidence = (
        f"of {of_kind:,} that were read again {int(jumped.sum()):,} cost less than {JUMP:.0%} of what they had cost,"
        f" measured by the others of their steps: in the median {median:.0%}",
        f"they are {share:.1%} of the targets: {'; '.join(shown)}",
    )
    step = int(rows.step[found.second[jumped]].min())
    if is_duplicate:
        what = "records with the same text were learned by heart"
        return Cause("memorised-duplicates", "trouble", "strong", step, what, evidence, "keep one of each in the data")
    what = "records were learned by heart when they were read again"
    cure = "fewer epochs or more data; what is held out tells whether it does harm"
    return Cause("memorised-records", "note", "strong", step, what, evidence, cure)
