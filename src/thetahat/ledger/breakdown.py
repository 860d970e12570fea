"""A likelihood by source, role, turn, length and position, each with an interval."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thetahat.ledger.ledger import LedgerRow
from thetahat.statistics.interval import MIN_DOCUMENTS, bits_per_byte_interval, exact_sum, ratio_interval

NUM_BUCKETS = 10  # of documents by their length
GROWTH = 4  # of the buckets of positions: 1 to 16, 17 to 64, 65 to 256, ...
FIRST = 16


class Cell(NamedTuple):
    """Some scored tokens of one document that belong to one group."""

    group: str
    document: str
    num_tokens: int
    num_bytes: int
    log_prob: float
    is_label: bool = False


@dataclass(frozen=True, slots=True)
class GroupLikelihood:
    """How likely one part of what was scored is."""

    name: str
    num_documents: int
    num_tokens: int
    num_bytes: int
    log_likelihood: float  # nats
    nats_per_token: float
    bits_per_byte: float | None  # None: of labels, behind which no text stands
    bits_per_byte_ci95: tuple[float, float] | None  # over documents; None with fewer than 30
    nats_per_token_ci95: tuple[float, float] | None  # likewise


def by_row(rows: Sequence[LedgerRow]) -> dict[str, list[GroupLikelihood]]:
    """By source, role, turn and length of the document; where all rows are in one group, that division is left out."""
    lengths = _lengths(rows)
    found = {
        "source": groups_of(_cell(row, row.source) for row in rows),
        "role": groups_of(_cell(row, row.role) for row in rows),
        "part": groups_of(_cell(row, row.part) for row in rows),
        "length": groups_of(_cell(row, lengths[row.document]) for row in rows),
    }
    return {name: groups for name, groups in found.items() if len(groups) > 1}


def by_position(rows: Sequence[LedgerRow], cells: Iterable[Cell]) -> dict[str, list[GroupLikelihood]]:
    """`by_row`, and by how many tokens of the same part stand before."""
    found, positions = by_row(rows), groups_of(cells)
    return found | ({"position": positions} if len(positions) > 1 else {})


def position_cells(
    rows: Sequence[LedgerRow], log_prob: NDArray[np.float64], num_bytes: NDArray[np.int64]
) -> Iterator[Cell]:
    """The tokens of each row by how many of it stand before; how likely each is, and its bytes, row after row."""
    if not rows:
        return
    sizes = np.array([row.num_tokens for row in rows], dtype=np.int64)
    first = np.cumsum(sizes) - sizes
    bucket = np.searchsorted(EDGES, np.arange(sizes.sum()) - np.repeat(first, sizes), side="right")
    is_first = np.diff(bucket, prepend=-1) != 0
    is_first[first] = True  # every row begins in the first bucket, in which the one before may end
    start = np.flatnonzero(is_first)
    row = np.searchsorted(first, start, side="right") - 1
    size = np.add.reduceat(num_bytes, start)
    edges = itertools.pairwise([*start.tolist(), len(bucket)])
    for (low, high), number, of_row, of_text in zip(edges, bucket[start], row.tolist(), size.tolist(), strict=True):
        yield Cell(NAMES[number], rows[of_row].document, high - low, of_text, exact_sum(log_prob[low:high]))


EDGES = np.array([FIRST * GROWTH**power for power in range(24)], dtype=np.int64)


def groups_of(cells: Iterable[Cell]) -> list[GroupLikelihood]:
    """The sums of each group, clustered by document, in the natural order of their names."""
    members: dict[str, list[Cell]] = {}
    for cell in cells:
        members.setdefault(cell.group, []).append(cell)
    return [_group(name, members[name]) for name in sorted(members, key=lambda name: (_natural(name), name))]


def _group(name: str, cells: Sequence[Cell]) -> GroupLikelihood:
    documents: dict[str, list[Cell]] = {}
    for cell in cells:
        documents.setdefault(cell.document, []).append(cell)
    nats = [exact_sum(cell.log_prob for cell in members) for members in documents.values()]
    sizes = [sum(cell.num_bytes for cell in members) for members in documents.values()]
    num_tokens, num_bytes, total = sum(cell.num_tokens for cell in cells), sum(sizes), exact_sum(nats)
    has_interval, is_of_labels = len(documents) >= MIN_DOCUMENTS, any(cell.is_label for cell in cells)
    counts = [sum(cell.num_tokens for cell in members) for members in documents.values()]
    per_byte = bits_per_byte_interval(nats, sizes) if num_bytes and has_interval and not is_of_labels else None
    per_token = ratio_interval([-some for some in nats], counts) if has_interval else None
    return GroupLikelihood(
        name=name,
        num_documents=len(documents),
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        log_likelihood=total,
        nats_per_token=-total / num_tokens,
        bits_per_byte=None if is_of_labels else -total / math.log(2) / num_bytes if num_bytes else math.inf,
        bits_per_byte_ci95=None if per_byte is None else (per_byte.low, per_byte.high),
        nats_per_token_ci95=None if per_token is None else (per_token.low, per_token.high),
    )


def _cell(row: LedgerRow, group: str) -> Cell:
    return Cell(group, row.document, row.num_tokens, row.num_bytes, row.log_prob, row.predicted is not None)


def _lengths(rows: Sequence[LedgerRow]) -> dict[str, str]:
    """For each document the name of its bucket by length: tenths of the documents, equal lengths together."""
    totals: dict[str, int] = {}
    for row in rows:
        totals[row.document] = totals.get(row.document, 0) + row.num_tokens
    sizes = np.sort(np.array(list(totals.values())))
    edges = np.unique(sizes[[math.ceil(len(sizes) * tenth / NUM_BUCKETS) - 1 for tenth in range(1, NUM_BUCKETS + 1)]])
    firsts = [int(sizes[0]), *(int(sizes[np.searchsorted(sizes, edge, side="right")]) for edge in edges[:-1])]
    names = [_range(first, int(last), "token") for first, last in zip(firsts, edges, strict=True)]
    bucket = np.searchsorted(edges, list(totals.values())).tolist()
    return {document: names[number] for document, number in zip(totals, bucket, strict=True)}


def _range(first: int, last: int, unit: str) -> str:
    bounds = f"{first:,}" if first == last else f"{first:,} to {last:,}"
    return f"{bounds} {unit}{'' if last == 1 else 's'}"


NAMES = [_range(first + 1, last, "token") for first, last in itertools.pairwise([0, *EDGES.tolist()])]


def _natural(name: str) -> list[tuple[int, str]]:
    """turn-2 before turn-10."""
    return [
        (int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name.replace(",", ""))
    ]
