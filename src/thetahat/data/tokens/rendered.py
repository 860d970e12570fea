"""What a template wrote, as texts between special tokens."""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

Said = tuple[str, Sequence[tuple[int, int]]]  # a text, and the ranges of what somebody said, in order
_BLANKS = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


class Piece(NamedTuple):
    """A text without special tokens, and the one behind it."""

    text: str
    goes_on: bool = False  # with a text: nothing is put in front of it
    name: str = ""  # of the special token behind it; empty: none
    num_taken: int = 0  # bytes of blanks at its ends that special tokens took away


class Text(NamedTuple):
    """How a tokenizer reads what a template wrote."""

    names: re.Pattern[str]  # of special tokens
    strips: Mapping[str, tuple[bool, bool]]  # by name, whether it takes the blanks before and behind it
    begins_apart: bool  # whether only the beginning of all text is the beginning of a text


def special_names(names: Iterable[str], alone: Collection[str] = ()) -> re.Pattern[str]:
    """Finds names, the longest where several begin; those that stand `alone` only where no word goes on at them."""
    escaped = {name: re.escape(name) for name in sorted(names, key=len, reverse=True)}
    return re.compile("|".join(rf"(?<!\w){one}(?!\w)" if name in alone else one for name, one in escaped.items()))


def special_in(text: str, names: re.Pattern[str], said: Sequence[tuple[int, int]]) -> list[re.Match[str]]:
    """Where names of special tokens stand for these: nothing of them lies in the ranges of what somebody has said."""
    if not said:
        return list(names.finditer(text))
    found: list[re.Match[str]] = []
    stops = [stop for _, stop in said]
    place = 0
    while match := names.search(text, place):
        at = bisect_right(stops, match.start())
        if at < len(said) and said[at][0] < match.end():
            place = match.start() + 1
        else:
            found.append(match)
            place = match.end()
    return found


def divide(parts: tuple[Said, Said], how: Text) -> tuple[list[Piece], list[Piece]]:
    """The pieces of a text in two parts: as the library divides all of it, where no piece reaches across."""
    first, before = _pieces(parts[0], how, None)
    return first, _pieces(parts[1], how, before)[0]


def _pieces(said: Said, how: Text, before: str | None) -> tuple[list[Piece], str | None]:
    """The pieces behind a special token of this name, a text (empty) or nothing (None), and what they end with."""
    text, ranges = said
    matches = special_in(text, how.names, ranges)
    edges = [0, *(edge for match in matches for edge in match.span()), len(text)]
    names = [*(match[0] for match in matches), ""]
    found: list[Piece] = []
    for start, stop, name in zip(edges[::2], edges[1::2], names, strict=True):
        whole = text[start:stop]
        kept = whole.lstrip(_BLANKS) if before and how.strips.get(before, _NONE)[1] else whole
        kept = kept.rstrip(_BLANKS) if name and how.strips.get(name, _NONE)[0] else kept
        goes_on = before == "" or (before is not None and how.begins_apart)
        found.append(Piece(kept, goes_on, name, len(whole.encode()) - len(kept.encode())))
        before = name or ("" if kept else before)
    return found, before


_NONE = (False, False)
