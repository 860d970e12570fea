"""A table is plain text in full off a terminal, and on one fits its width with every number whole."""

import io
import sys
from operator import itemgetter

import pytest
from hypothesis import given, strategies as st
from rich.cells import cell_len
from rich.text import Text

from thetahat.cli.table import NARROWEST, Column, interval, show_table, show_values

COLUMNS = [Column("name", itemgetter(0)), Column("count", itemgetter(1), ","), Column("what", itemgetter(2))]
COLUMNS += [Column("share", itemgetter(3), ".1%")]
names = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=60)
rows = st.lists(st.tuples(names, st.integers(0, 10**9), names, st.none() | st.floats(0, 1)), max_size=5)


class Screen(io.StringIO):
    def isatty(self):
        return True


def printed(show, *given, columns=0, **options):
    """The lines; on a terminal of so many columns, or on none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", Screen() if columns else io.StringIO())
        patch.setenv("COLUMNS", str(columns or 20))
        patch.setenv("TERM", "xterm-256color")
        show(*given, **options)
        return sys.stdout.getvalue().splitlines()


@given(rows)
def test_off_a_terminal_every_cell_is_whole_and_nothing_is_styled(some):
    lines = printed(show_table, some, COLUMNS)
    assert len(lines) == 1 + len(some)
    assert all(line == line.rstrip() and "\x1b" not in line for line in lines)
    for line, (name, count, what, share) in zip(lines[1:], some, strict=True):
        assert line.startswith(name)
        assert what in line
        assert f"{count:,}" in line
        assert line.endswith("-" if share is None else f"{share:.1%}")
    assert len({cell_len(line) for line in lines}) == 1  # the last column ends in one place


@given(rows, st.integers(50, 130))
def test_on_a_terminal_lines_fit_and_numbers_are_whole(some, columns):
    lines = [Text.from_ansi(line).plain for line in printed(show_table, some, COLUMNS, columns=columns)]
    assert len(lines) == 1 + len(some)
    assert max(map(cell_len, lines)) <= columns
    for line, (_, count, _, share) in zip(lines[1:], some, strict=True):
        assert f" {count:,} " in line
        assert line.endswith("-" if share is None else f"{share:.1%}")


def test_a_name_is_cut_in_its_middle_and_never_to_nothing():
    files = [(f"folder/of/sources/number-{i}.jsonl", 1, "", 0.5) for i in range(3)]
    lines = printed(show_table, files, COLUMNS, columns=50)
    assert [line.split()[0][-8:] for line in lines[1:]] == [f"-{i}.jsonl" for i in range(3)]
    assert all("…" in line for line in lines[1:])
    narrow = printed(show_table, files, COLUMNS, columns=10)
    assert cell_len(narrow[1].split()[0]) == NARROWEST


def test_wide_characters_take_two_columns():
    lines = printed(show_table, [("猫" * 30, 1, "b", 0.5), ("cat", 20, "b", 0.5)], COLUMNS, columns=60)
    assert {cell_len(line) for line in lines[1:]} <= {60, 59}


def test_what_is_not_shown_is_counted_and_what_is_odd_escaped():
    lines = printed(show_table, [("a\nb[bold]", 1, "\x1b[31m", None)], COLUMNS, num_more=1200)
    assert lines[1].split() == [r"a\nb[bold]", "1", r"\x1b[31m", "-"]
    assert lines[2] == "... and 1,200 more: --json has all"


def test_values_stand_below_each_other_and_long_ones_go_on_below():
    values = {"one": 1.23456789, "interval": [0.5, "inf"], "none": None, "policy": "a word and " * 10}
    assert printed(show_values, values) == [
        "one       1.23457",
        "interval  0.5 to inf",
        "none      -",
        f"policy    {values['policy'].rstrip()}",
    ]
    below = printed(show_values, values, columns=40)[4:]
    assert below
    assert all(line.startswith(" " * 10) and cell_len(line) <= 40 for line in below)


def test_names_are_words_and_an_interval_stands_behind_its_estimate():
    values = {
        "nats_per_token": 5.787656,
        "num_bytes": 123456,
        "nats_per_token_ci95": [5.6396034, 5.9357],
        "is_it": True,
    }
    assert printed(show_values, values | {"log_likelihood": -1234567.891, "none_ci95": None, "none": None}) == [
        "nats per token  5.78766 (95 % 5.6396 to 5.9357)",
        "bytes           123,456",
        "is it           yes",
        "log likelihood  -1,234,568",
        "none            -",
    ]


def test_a_narrow_terminal_leaves_out_what_is_spare_before_it_cuts_names_and_what_is_empty():
    columns = [COLUMNS[0], Column("wide", itemgetter(1), ",", spare=1), Column("empty", lambda row: None, ",", spare=2)]
    some = [("a-name-of-twenty-four-ch", 10**9, "", 0.5)]
    shown = [printed(show_table, some, columns, columns=width)[0] for width in (40, 30)]
    assert [Text.from_ansi(line).plain.split() for line in shown] == [
        ["name", "wide"],
        ["name"],
    ]
    assert printed(show_table, some, columns)[0].split() == ["name", "wide", "empty"]


def test_an_interval_is_one_cell():
    assert interval((0.25, "nan"), ".3f") == "0.250 to nan"
    assert interval(None, ".3f") is None
