"""Which windows of a corpus are read together; it depends on the windows alone."""

from dataclasses import replace

import numpy as np

from thetahat.data.corpus.corpus import Ints
from thetahat.data.order.pack import Pieces, best_fit, enumerate_counts, take

MULTIPLE = 16  # of positions: rows have a multiple of it, since kernels round very small or odd products differently
ALIKE = 3 / 4  # of the longest row: the shortest that is read with it, so that at most a quarter is padding

Groups = list[Ints]  # of each group, the indices of its pieces


def one_by_one(pieces: Pieces) -> Groups:
    """Each unit alone, the longest first."""
    order = np.argsort(-_row_lengths(pieces), kind="stable")
    return _of_units(pieces, order, np.arange(1, len(order)))


def side_by_side(pieces: Pieces, room: int) -> Groups:
    """Units of much the same length, one a row, the longest first: as many as fit into `room` positions, at least one.

    What an encoder reads counts instead of its targets where it is longer than these.
    """
    lengths = _row_lengths(pieces)
    order = np.argsort(-lengths, kind="stable")
    edges, first, longest = [], 0, 0
    for place, length in enumerate(lengths[order].tolist()):
        if place and ((place + 1 - first) * longest > room or length < ALIKE * longest):
            edges.append(place)
            first = place
        longest = length if first == place else longest
    return _of_units(pieces, order, np.array(edges, np.int64))


def end_to_end(pieces: Pieces, room: int) -> tuple[Pieces, Groups]:
    """Units packed into rows of at most `room` positions (or of one unit), and each row's pieces.

    Best fit, the longest first: rows are about equally full, and the last few, which are not, are the shortest.
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


def _row_lengths(pieces: Pieces) -> Ints:
    """[units], positions of a row that holds each; the branches of a tree lie one behind the other."""
    lengths = np.maximum(pieces.size, pieces.stop - pieces.start - 1)  # `size` is of targets, not of an encoder's input
    if len(pieces):
        lengths = np.maximum(np.maximum.reduceat(lengths, pieces.unit_starts), _sums(pieces.size, pieces))
    return -(-lengths // MULTIPLE) * MULTIPLE


def _sums(values: Ints, pieces: Pieces) -> Ints:
    """[units], sums over the pieces of each."""
    return np.add.reduceat(values, pieces.unit_starts) if len(pieces) else values


def _of_units(pieces: Pieces, order: Ints, edges: Ints) -> Groups:
    """The indices of the pieces of units, in this order of units; a group ends before each unit at `edges`."""
    starts = pieces.unit_starts
    counts = np.diff(starts, append=len(pieces))[order]
    unit, place = enumerate_counts(counts)
    before = np.concatenate([[0], np.cumsum(counts)])
    return _split(starts[order][unit] + place, before[edges])


def _split(index: Ints, edges: Ints) -> Groups:
    return np.split(index, edges) if len(index) else []
