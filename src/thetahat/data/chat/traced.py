"""Texts that know which characters of a message they are made of, whatever a template does to them.

A template gets the true text: its length, its searches and its pieces are those of a `str`. Beside them every text
carries the runs of its characters that come from the messages. So the text that is rendered tells which of its
characters are the template's own, and which characters of a message it does not hold. Known to the process that
renders alone, so it imports nothing of this package.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import mod
from typing import Any, SupportsIndex, cast, final

Run = tuple[int, int, int]  # start, stop, and what the first of them was: its place among all characters given
_STAND_INS = 0xF0000, 0x10FFFE  # characters that no text has, each of which stands for one that is followed
_SAME_LENGTH = ("upper", "lower", "title", "capitalize", "swapcase", "casefold")
_CUTTING = ("strip", "lstrip", "rstrip", "removeprefix", "removesuffix")


@final
class Traced(str):
    """A text in which the characters of some runs come from the messages."""

    runs: tuple[Run, ...]

    def __add__(self, other: Any) -> str:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any) -> str:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> str:
        return joined([self] * int(times))

    def __rmul__(self, times: SupportsIndex) -> str:
        return joined([self] * int(times))

    def __mod__(self, values: Any) -> str:
        return followed(mod, self, values)

    def __rmod__(self, form: str) -> str:
        return followed(mod, form, self)

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        places = range(len(self))[key]
        if isinstance(places, int):
            return _part(self, places, places + 1)
        if places.step == 1:
            return _part(self, places.start, max(places.stop, places.start))
        return joined(_part(self, place, place + 1) for place in places)

    def __iter__(self) -> Iterator[str]:
        return (_part(self, place, place + 1) for place in range(len(self)))

    def __str__(self) -> str:
        return self

    def __reduce__(self) -> Any:
        return str, (plain(self),)

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """The pieces, each with its runs."""
        return _pieces(self, plain(self).split(sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """The pieces, each with its runs."""
        return _pieces(self, plain(self).rsplit(sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        """The lines, each with its runs."""
        whole, lines = plain(self).splitlines(keepends=True), plain(self).splitlines(keepends=keepends)
        return [_part(line, 0, len(kept)) for line, kept in zip(_pieces(self, whole, ""), lines, strict=True)]

    def partition(self, sep: str) -> tuple[str, str, str]:
        """Before, `sep`, and behind."""
        before, found, behind = _pieces(self, plain(self).partition(sep), "")
        return before, found, behind

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        """Before, `sep`, and behind, where it stands last."""
        before, found, behind = _pieces(self, plain(self).rpartition(sep), "")
        return before, found, behind

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> str:
        """With `new` for `old`."""
        if not old:
            return followed(_replace, self, new, int(count))
        pieces = _pieces(self, plain(self).split(old, count), old)
        between = [new] * (len(pieces) - 1)
        return joined(piece for both in zip(pieces, [*between, ""], strict=True) for piece in both)


def _replace(text: str, new: str, count: int) -> str:
    return text.replace("", new, count)


def _cutting(name: str) -> Callable[..., str]:
    def cut(self: Traced, *given: Any) -> str:
        kept = getattr(plain(self), name)(*given)
        fronts = {"rstrip": 0, "removesuffix": 0, "removeprefix": len(self) - len(kept)}
        start = fronts.get(name, plain(self).find(kept) if name == "strip" else len(self) - len(kept))
        return _part(self, start, start + len(kept))

    cut.__name__ = name
    return cut


def _recasing(name: str) -> Callable[[Traced], str]:
    def recase(self: Traced) -> str:
        found = getattr(plain(self), name)()
        return placed(found, self, [len(getattr(letter, name)()) for letter in plain(self)])

    recase.__name__ = name
    return recase


for _name in _CUTTING:
    setattr(Traced, _name, _cutting(_name))
for _name in _SAME_LENGTH:
    setattr(Traced, _name, _recasing(_name))


def traced(text: str, runs: Iterable[Run]) -> str:
    """The text with these runs; a `str` where there are none."""
    kept = tuple(runs)
    if not kept:
        return text
    made = Traced(text)
    made.runs = kept
    return made


def plain(text: str) -> str:
    """The same as a `str` and nothing more."""
    return str.__str__(text)


def runs_of(text: str) -> tuple[Run, ...]:
    """Where it holds characters of the messages."""
    return text.runs if isinstance(text, Traced) else ()


def joined(pieces: Iterable[str]) -> str:
    """All of them, one behind the other."""
    kept = list(pieces)
    runs: list[Run] = []
    end = 0
    for piece in kept:
        for start, stop, origin in runs_of(piece):
            if runs and runs[-1][1] == end + start and runs[-1][2] + runs[-1][1] - runs[-1][0] == origin:
                runs[-1] = (runs[-1][0], end + stop, runs[-1][2])
            else:
                runs.append((end + start, end + stop, origin))
        end += len(piece)
    return traced("".join(map(plain, kept)), runs)


def _part(text: str, start: int, stop: int) -> str:
    kept = [
        (max(first, start) - start, min(last, stop) - start, origin + max(start - first, 0))
        for first, last, origin in runs_of(text)
        if first < stop and start < last
    ]
    return traced(str.__getitem__(text, slice(start, stop)), kept)


def _pieces(text: str, pieces: Iterable[str], sep: str | None) -> list[str]:
    """Pieces that follow each other in the text, with `sep` between them (None: white space)."""
    found: list[str] = []
    place = 0
    for piece in pieces:
        start = text.find(piece, place) if sep is None else place
        found.append(_part(text, start, start + len(piece)))
        place = start + len(piece) + len(sep or "")
    return found


def placed(found: str, text: Traced, widths: Sequence[int]) -> str:
    """A text made of another letter by letter, of these widths; where they do not add up it is all of it."""
    if len(found) == len(text):
        return traced(found, text.runs)
    if sum(widths) != len(found):
        return _blurred(found, [text])
    runs: list[Run] = []
    ends = [0]
    for width in widths:
        ends.append(ends[-1] + width)
    for first, last, origin in text.runs:
        for place in range(first, last):
            runs += [(at, at + 1, origin + place - first) for at in range(ends[place], ends[place + 1])]
    return traced(found, runs)


def _blurred(found: str, texts: Iterable[str]) -> str:
    """A text of which is known only that it was made of others: as much of them as it can hold, in their order."""
    runs: list[Run] = []
    end = 0
    for text in texts:
        for first, last, origin in runs_of(text):
            stop = min(end + last - first, len(found))
            if stop > end:
                runs.append((end, stop, origin))
                end = stop
    if runs and end < len(found):  # all of it comes from the messages
        runs.append((end, len(found), runs[-1][2]))
    return traced(found, runs)


def followed(change: Callable[..., str], *given: Any) -> str:
    """What `change` makes of values that hold texts, with its runs.

    It is done once more with a stand-in for every character that is followed. Where that gives the same text but for
    the stand-ins, they tell what stands where; where it does not, `change` looks at what it changes.
    """
    texts = list(texts_of(given))
    found = plain(change(*_mapped(given, plain)))
    known = dict[str, int]()
    first, last = _STAND_INS

    def hidden(text: str) -> str:
        letters = list(plain(text))
        for start, stop, origin in runs_of(text):
            for place in range(start, stop):
                letters[place] = chr(first + len(known))
                known[letters[place]] = origin + place - start
        return "".join(letters)

    if sum(stop - start for text in texts for start, stop, _ in runs_of(text)) > last - first:
        return _blurred(found, texts)
    try:
        again = plain(change(*_mapped(given, hidden)))
    except Exception:  # noqa: BLE001 - a template may do anything
        again = ""
    if len(again) != len(found) or any(a != b for a, b in zip(again, found, strict=True) if a not in known):
        return _blurred(found, texts)
    return joined(
        traced(letter, [(0, 1, known[mark])]) if mark in known else letter
        for mark, letter in zip(again, found, strict=True)
    )


def texts_of(value: Any) -> Iterator[Traced]:
    """All that are followed in a value."""
    if isinstance(value, Traced):
        yield value
    elif isinstance(value, dict):
        for name, below in cast("dict[Any, Any]", value).items():
            yield from texts_of(name)
            yield from texts_of(below)
    elif isinstance(value, list | tuple):
        for below in cast("list[Any]", value):
            yield from texts_of(below)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Traced):
        return change(value)
    if isinstance(value, dict) and any(True for _ in texts_of(value)):
        some = cast("dict[Any, Any]", value)
        return {_mapped(name, change): _mapped(below, change) for name, below in some.items()}
    if type(value) in {list, tuple}:
        return type(value)(_mapped(below, change) for below in value)
    return value
