"""Groups hold every piece once, whole units, and no more than what fits."""

import itertools

import numpy as np
from hypothesis import given, strategies as st

from thetahat.data.order.pack import Pieces
from thetahat.scoring.grouping import ALIKE, MULTIPLE, end_to_end, one_by_one, side_by_side

UNITS = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=3), max_size=40)  # the sizes of each unit's pieces


def pieces_of(units, *, sources=False):
    """Trees; with `sources` the first piece of each unit is one, which takes up no room in a row of targets."""
    sizes = [size for unit in units for size in unit]
    size, start = np.array(sizes, np.int64), np.zeros(len(sizes), np.int64)
    first = np.cumsum([0, *map(len, units)])[:-1].astype(np.int64)
    unit = np.repeat(np.arange(len(units)), list(map(len, units))).astype(np.int64)
    takes = size.copy()
    if sources:
        takes[first] = 0
    return Pieces(np.arange(len(size)), start, start + 1, size + 1, start, unit, takes, unit, len(units))


def rounded(size):
    return -(-size // MULTIPLE) * MULTIPLE


def width_of(unit, *, sources):
    return rounded(max([sum(unit[1:] if sources else unit), *unit]))


def units_of(pieces, groups):
    """Of each group, its units, each of which is whole and in order."""
    found = []
    for index in groups:
        units = list(dict.fromkeys(pieces.unit[index].tolist()))
        assert index.tolist() == [i for unit in units for i in np.flatnonzero(pieces.unit == unit)]
        found.append(units)
    assert sorted(unit for units in found for unit in units) == sorted(set(pieces.unit.tolist()))
    return found


@given(UNITS, st.integers(1, 400), st.booleans())
def test_side_by_side_stand_whole_units_of_much_the_same_width(units, room, sources):
    pieces = pieces_of(units, sources=sources)
    groups = [
        [width_of(units[one], sources=sources) for one in group]
        for group in units_of(pieces, side_by_side(pieces, room))
    ]
    for group in groups:
        assert len(group) == 1 or len(group) * max(group) <= room
        assert min(group) >= ALIKE * max(group)
    flat = [width for group in groups for width in group]
    assert flat == sorted(flat, reverse=True)
    for group, after in itertools.pairwise(groups):  # no group leaves out what it had room for
        assert (len(group) + 1) * group[0] > room or after[0] < ALIKE * group[0]


@given(UNITS)
def test_one_by_one_stands_each_unit_alone_the_widest_first(units):
    pieces = pieces_of(units)
    found = units_of(pieces, one_by_one(pieces))
    assert all(len(group) == 1 for group in found)
    widths = [width_of(units[one], sources=False) for (one,) in found]
    assert widths == sorted(widths, reverse=True)


@given(UNITS, st.integers(1, 200))
def test_end_to_end_rows_hold_what_fits_or_a_single_unit(units, room):
    packed, groups = end_to_end(pieces_of(units), room)
    assert sorted(packed.span.tolist()) == list(range(len(packed)))
    assert [index for group in groups for index in group] == list(range(len(packed)))
    assert packed.num_rows == len(groups)
    in_rows = [[sum(units[unit]) for unit in of_row] for of_row in units_of(packed, groups)]
    for number, (group, sizes) in enumerate(zip(groups, in_rows, strict=True)):
        assert set(packed.row[group]) == {number}
        assert len(sizes) == 1 or sum(sizes) <= room
    for sizes, after in itertools.combinations(in_rows, 2):
        assert sum(sizes) + after[0] > room  # or it would stand there
    assert all(sizes == sorted(sizes, reverse=True) for sizes in in_rows)
    firsts = [min(sizes[0], room) for sizes in in_rows]
    assert firsts == sorted(firsts, reverse=True)
