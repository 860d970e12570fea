"""Tables of what a step did to its sequences."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from thetahat.cli.table import Column, show_table


def show_sequences(found: Sequence[dict[str, Any]], most: int) -> None:
    """The sequences with the largest shares and those with the smallest, at most so many at each end."""
    columns = [
        Column("share", itemgetter("share"), ".2%"),
        Column("norm", itemgetter("gradient_norm"), ".3g", spare=1),
        Column("before", itemgetter("before"), ".2f"),
        Column("after", itemgetter("after"), ".2f"),
        Column("tokens", itemgetter("num_tokens"), ","),
        Column("of", itemgetter("name")),
        Column("text", itemgetter("text")),
    ]
    rows = [one | {"name": _name(one), "text": one["text"].replace("\n", " ")} for one in found]
    if (num_more := len(rows) - 2 * most) > 0:
        between = dict.fromkeys(("gradient_norm", "before", "after", "num_tokens"), "")
        between |= {"share": "...", "name": f"{num_more:,} more", "text": ""}
        rows = [*rows[:most], between, *rows[-most:]]
    show_table(rows, columns)


def _name(one: dict[str, Any]) -> str:
    return one["id"] if one["part"] == "document" else f"{one['id']} {one['part']}"
