"""Values as JSON holds them, and texts as a shell passes them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any


def finite_or_text(value: Any) -> Any:
    """The value with every number in it that is not finite as text ("nan", "inf"), since JSON has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: finite_or_text(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite_or_text(one) for one in value]
    return value


def unescaped(text: str) -> str:
    r"""The text of an option with its escapes read.

    `\n`, `\t`, `\r` stand for line break, tabulator and return, which a shell does not make; `\\` for a backslash.
    """
    return re.sub(r"\\[\\ntr]", lambda found: _ESCAPES[found[0]], text)


_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", "\\\\": "\\"}
