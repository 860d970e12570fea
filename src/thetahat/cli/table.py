"""Tables on stdout: aligned to the terminal's width there, at their full width and without a style elsewhere."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from thetahat.cli.words import emit, in_line

GAP = 2  # blanks between two columns
NARROWEST = 8  # characters to which a column of text may be cut


@dataclass(frozen=True, slots=True)
class Column:
    """What stands above a column, which value of a row stands in it, and how it is written.

    `form` is the format of numbers, which stand on the right and are never cut; None: text, which stands on the left
    and is cut where the terminal is too narrow.
    """

    name: str
    of: Callable[[Any], Any]
    form: str | None = None


def show_table(rows: Sequence[Any], columns: Sequence[Column], *, num_more: int = 0) -> None:
    """Prints a line for each row, and how many rows more there are."""
    cells = [[_cell(column.of(row), column.form) for column in columns] for row in rows]
    _print([column.name for column in columns], [column.form is None for column in columns], cells)
    if num_more > 0:
        emit(f"... and {num_more:,} more: --json has all")


def _cell(value: Any, form: str | None) -> str:
    """A value as it is shown; None, of a number that is not there, as a dash."""
    if value is None:
        return "-"
    return in_line(value) if isinstance(value, str) else format(value, form or "")


def interval(ends: Sequence[Any] | None, form: str) -> str | None:
    """The two ends of an interval in one cell; None where there is none."""
    return None if ends is None else " to ".join(_cell(end, form) for end in ends)


def show_values(values: Mapping[str, Any]) -> None:
    """Prints a name and its value on each line; an interval as its two ends."""
    _print(None, [False, True], [[name, _said(value)] for name, value in values.items()])


def _said(value: Any) -> str:
    is_interval = isinstance(value, Sequence) and not isinstance(value, str)
    return (interval(value, "") or "") if is_interval else _cell(value, "")


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
