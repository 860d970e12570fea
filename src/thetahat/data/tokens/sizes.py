"""How many bytes of a text each of its tokens stands for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

_WIDTHS = (0x7F, 0x7FF, 0xFFFF)  # the last characters that UTF-8 writes with 1, 2 and 3 bytes


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text as token ids, with the bytes that stand behind each.

    Sizes add up to the bytes of the text, whatever the tokenizer leaves out or writes otherwise, unless there is no
    token at all.
    """

    ids: list[int]
    sizes: list[int] | None = None  # bytes; None: those of the table of the tokenizer
    is_lossless: bool = True  # whether the ids tell the text, to the byte
    num_left: int = 0  # bytes of a text that has no token

    def cut(self, part: slice) -> "Tokens":
        """Some of the tokens."""
        return replace(self, ids=self.ids[part], sizes=None if self.sizes is None else self.sizes[part])


def by_table(text: str, ids: list[int], table: Sequence[bytes], prefix: bytes = b"") -> Tokens | None:
    """The tokens of a text whose pieces, joined, are the text behind `prefix`, which a tokenizer puts there; or None.

    The bytes of each are then exact, and the ids tell the text.
    """
    data = text.encode()
    if not data:
        return Tokens(ids)
    if b"".join(map(table.__getitem__, ids)) != prefix + data:
        return None
    return Tokens(ids, _without(len(prefix), [len(table[id]) for id in ids]) if prefix else None)


def _without(count: int, sizes: list[int]) -> list[int]:
    """The sizes less so many bytes at the beginning."""
    for place, size in enumerate(sizes):
        taken = min(size, count)
        sizes[place], count = size - taken, count - taken
        if not count:
            break
    return sizes


def by_ends(text: str, ids: list[int], ends: Sequence[int]) -> Tokens:
    """The end rule: a token gets the bytes between the furthest end so far and its own; the last one gets the rest.

    Ends are places in the text, in characters.
    It adds up to the text where offsets do not: parts of one character each have all of it, and what a normalizer took
    away belongs to no token.
    """
    if not ids:
        return Tokens([], [], not text, len(text.encode()))
    characters = np.frombuffer(text.encode("utf-32-le"), "<u4")
    edges = np.zeros(len(characters) + 1, np.int64)
    np.cumsum(1 + np.searchsorted(_WIDTHS, characters), out=edges[1:])
    reached = edges[np.maximum.accumulate(ends)]
    reached[-1] = edges[-1]
    return Tokens(ids, np.diff(reached, prepend=0).tolist(), is_lossless=False)


def joined(parts: Sequence[Tokens], table: Sequence[bytes]) -> Tokens:
    """Tokens one behind the other; what a part leaves over goes to the token behind it, or before it at the end."""
    ids = [id for part in parts for id in part.ids]
    if all(part.sizes is None for part in parts):
        return Tokens(ids)
    sizes: list[int] = []
    left = 0
    for part in parts:
        own = [len(table[id]) for id in part.ids] if part.sizes is None else [*part.sizes]
        left += part.num_left
        if own:
            own[0], left = own[0] + left, 0
        sizes += own
    if sizes:
        sizes[-1], left = sizes[-1] + left, 0
    return Tokens(ids, sizes, all(part.is_lossless for part in parts), left)
