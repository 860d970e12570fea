"""Which windows of a corpus are read together: a function of the windows alone."""

from dataclasses import replace

import numpy as np

from thetahat.data.corpus.corpus import Ints
from thetahat.data.order.pack import Pieces, best_fit, enumerate_counts, take

WIDTHS = 16  # rows are as wide as a multiple of it: kernels round the smallest products and ends of vectors otherwise
ALIKE = 3 / 4  # of the widest: the narrowest that is read with it, so that at most a quarter is padding

Groups = list[Ints]  # of each group, the indices of its pieces


def one_by_one(pieces: Pieces) -> Groups:
    """Each unit alone, the widest first."""
    order = np.argsort(-_widths(pieces), kind="stable")
    return _of_units(pieces, order, np.arange(1, len(order)))


def side_by_side(pieces: Pieces, room: int) -> Groups:
    """Units of much the same width, one a row, the widest first: as many as fit in `room` positions, but at least one.

    A source takes up the room of its own, if it is longer than what is asked of it.
    """
    widths = _widths(pieces)
    order = np.argsort(-widths, kind="stable")
    edges, first, widest = [], 0, 0
    for place, width in enumerate(widths[order].tolist()):
        if place and ((place + 1 - first) * widest > room or width < ALIKE * widest):
            edges.append(place)
            first = place
        widest = width if first == place else widest
    return _of_units(pieces, order, np.array(edges, np.int64))


def end_to_end(pieces: Pieces, room: int) -> tuple[Pieces, Groups]:
    """Units packed into rows of at most `room` positions (or of one unit), and each row's pieces.

    Best fit, the longest first, so that rows are about equally full and the last few, which are not, the shortest.
    """
    sizes = _sums(pieces.size, pieces)
    row = best_fit(np.minimum(sizes, room), room)
    order = np.lexsort((-sizes, row))
    edges = np.flatnonzero(np.diff(row[order])) + 1
    groups = _of_units(pieces, order, edges)
    counts = np.array([len(group) for group in groups], np.int64)
    packed = replace(
        take(pieces, np.concatenate([*groups, np.empty(0, np.int64)])),
        row=np.repeat(np.arange(len(groups)), counts),
        num_rows=len(groups),
    )
    return packed, _split(np.arange(len(pieces)), np.cumsum(counts)[:-1])


def _widths(pieces: Pieces) -> Ints:
    """[units], positions of a row that holds each: the branches of a tree lie one behind the other."""
    widest = np.maximum(pieces.size, pieces.stop - pieces.start - 1)  # the size of a source is that of its targets
    if len(pieces):
        widest = np.maximum(np.maximum.reduceat(widest, pieces.unit_starts), _sums(pieces.size, pieces))
    return -(-widest // WIDTHS) * WIDTHS


def _sums(values: Ints, pieces: Pieces) -> Ints:
    """[units], over the pieces of each."""
    return np.add.reduceat(values, pieces.unit_starts) if len(pieces) else values


def _of_units(pieces: Pieces, order: Ints, edges: Ints) -> Groups:
    """The pieces of units in this order, cut before those at `edges`."""
    starts = pieces.unit_starts
    counts = np.diff(starts, append=len(pieces))[order]
    unit, place = enumerate_counts(counts)
    before = np.concatenate([[0], np.cumsum(counts)])
    return _split(starts[order][unit] + place, before[edges])


def _split(index: Ints, edges: Ints) -> Groups:
    return np.split(index, edges) if len(index) else []
