"""Tables on stdout: aligned to the terminal's width there, at their full width and without a style elsewhere."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from thetahat.cli.words import emit, in_line

INTERVAL = "_ci95"  # behind a name: the interval of that value
GAP = 2  # blanks between two columns
NARROWEST = 8  # characters to which a column of text may be cut
LEGIBLE = 24  # the same, as long as there are columns that may be left out


@dataclass(frozen=True, slots=True)
class Column:
    """What stands above a column, which value of a row stands in it, and how it is written.

    `form` is the format of numbers, which stand on the right and are never cut; None: text, which stands on the left
    and is cut where the terminal is too narrow. A terminal may leave out a column that is `spare`, those with the
    largest numbers first, and does so where no row has anything there.
    """

    name: str
    of: Callable[[Any], Any]
    form: str | None = None
    spare: int = 0  # 0: it is always shown


def show_table(rows: Sequence[Any], columns: Sequence[Column], *, num_more: int = 0) -> None:
    """Prints a line for each row, and how many rows more there are."""
    if sys.stdout.isatty():
        columns = _roomy(rows, columns, shutil.get_terminal_size().columns)
    cells = [[_cell(column.of(row), column.form) for column in columns] for row in rows]
    _print([column.name for column in columns], [column.form is None for column in columns], cells)
    if num_more > 0:
        emit(f"... and {num_more:,} more: --json has all")


def _roomy(rows: Sequence[Any], columns: Sequence[Column], room: int) -> list[Column]:
    """The columns that are worth their room, as long as names are not cut below `LEGIBLE` characters."""
    from rich.cells import cell_len

    cells = {id(one): [_cell(one.of(row), one.form) for row in rows] for one in columns}
    left = [one for one in columns if not one.spare or {*cells[id(one)]} - {"", "-"}]

    def width(one: Column) -> int:
        widest = max(map(cell_len, [one.name, *cells[id(one)]]))
        return widest if one.form is not None else min(widest, LEGIBLE)

    while sum(map(width, left)) + GAP * (len(left) - 1) > room and any(one.spare for one in left):
        left.remove(max(reversed(left), key=lambda one: one.spare))
    return left


def _cell(value: Any, form: str | None) -> str:
    """A value as it is shown; None, of a number that is not there, as a dash."""
    if value is None:
        return "-"
    return in_line(value) if isinstance(value, str) else format(value, form or "")


def interval(ends: Sequence[Any] | None, form: str) -> str | None:
    """The two ends of an interval in one cell; None where there is none."""
    return None if ends is None else " to ".join(_cell(end, form) for end in ends)


def show_values(values: Mapping[str, Any]) -> None:
    """Prints a name, in words, and its value on each line: six digits of a number, an interval behind its estimate."""
    behind = {f"{name}{INTERVAL}": name for name in values}
    rows = [
        [name.removeprefix("num_").replace("_", " "), _said(value) + _interval_of(values.get(f"{name}{INTERVAL}"))]
        for name, value in values.items()
        if name not in behind
    ]
    _print(None, [False, True], rows)


def _interval_of(ends: Sequence[Any] | None) -> str:
    return "" if ends is None else f" (95 % {_said(ends)})"


def _said(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return _rounded(value)
        case str() | None:
            return _cell(value, "")
        case _:
            return " to ".join(map(_said, value))


def _rounded(value: float) -> str:
    """Six digits, and all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1e6 else f"{value:,.6g}"


def _print(names: Sequence[str] | None, is_text: Sequence[bool], rows: Sequence[Sequence[str]]) -> None:
    """Names of columns, if there are any, and rows, each column as wide as its widest cell."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_terminal = sys.stdout.isatty()
    lines = [*([names] if names else []), *rows]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    if is_terminal:
        widths = _fitting(widths, is_text, shutil.get_terminal_size().columns)
    table = Table(box=None, show_header=names is not None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for name, is_one, width in zip(names or [""] * len(widths), is_text, widths, strict=True):
        side = "left" if is_one or names is None else "right"
        table.add_column(Text(name), justify=side, width=width, no_wrap=names is not None)
    for cells in rows:
        shown = cells if names is None else map(_cut, cells, widths)  # without names, long values go on below
        table.add_row(*map(Text, shown))
    console = Console(file=StringIO(), width=sum(widths) + GAP * len(widths), force_terminal=is_terminal)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        emit(line.rstrip())


def _cut(cell: str, width: int) -> str:
    """The cell in `width` columns: what does not fit is left out of its middle, as beginning and end of a name tell."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(cell) <= width:
        return cell
    end = next(cell[start:] for start in range(len(cell) + 1) if cell_len(cell[start:]) <= (width - 1) // 2)
    return f"{set_cell_size(cell, width - 1 - cell_len(end))}…{end}"


def _fitting(widths: Sequence[int], is_text: Sequence[bool], room: int) -> list[int]:
    """The widths with the widest text cut, character by character, until a line fits into `room` columns."""
    fitting = list(widths)
    while sum(fitting) + GAP * (len(fitting) - 1) > room:
        widest = max((width for width, is_one in zip(fitting, is_text, strict=True) if is_one), default=0)
        if widest <= NARROWEST:
            break
        index = next(i for i, width in enumerate(fitting) if width == widest and is_text[i])
        fitting[index] -= 1
    return fitting
