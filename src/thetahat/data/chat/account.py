"""What of a dialogue a template writes, and what it does not, by field."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from thetahat.data.chat.rendering import Run

Range = tuple[int, int]
TOOLS = -1  # the number of a leaf that stands in no message
_FORM = frozenset({"tool_calls.type", "content.type"})  # what a thing is, not what it says


@dataclass(frozen=True, slots=True)
class Leaf:
    """A text somewhere in what a template is given."""

    message: int  # or TOOLS
    field: str  # content, tool_calls.function.arguments, ...
    text: str
    start: int  # of its first character among all
    is_name: bool = False  # of a field, below the uppermost ones

    @property
    def says(self) -> bool:
        """Whether a template that leaves it out leaves out something that was said."""
        within = self.message != TOOLS and self.field.endswith("arguments")
        return self.field not in _FORM and (within or not self.is_name) and bool(self.text)


def leaves_of(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> list[Leaf]:
    """All texts that a template is given, in the order in which the renderer numbers their characters."""
    found: list[Leaf] = []
    end = 0
    fields = ((index, name, value) for index, message in enumerate(messages) for name, value in message.items())
    for index, name, value in (*fields, (TOOLS, "tools", tools)):
        if name == "role":
            continue
        for field, text, is_name in _texts(value, name):
            found.append(Leaf(index, "tools" if index == TOOLS else field, text, end, is_name))
            end += len(text)
    return found


def _texts(value: Any, field: str) -> Iterator[tuple[str, str, bool]]:
    if isinstance(value, str):
        yield "content" if field == "content.text" else field, value, False
    elif isinstance(value, Mapping):
        for name, below in cast("Mapping[str, Any]", value).items():
            inside = field if field.endswith("arguments") else f"{field}.{name}"
            yield field, name, True
            yield from _texts(below, inside)
    elif isinstance(value, list | tuple):
        for below in cast("Sequence[Any]", value):
            yield from _texts(below, field)


def clipped(runs: Iterable[Run], start: int, stop: int) -> list[Run]:
    """The runs of a part of a text."""
    return [
        (max(first, start) - start, min(last, stop) - start, origin + max(start - first, 0))
        for first, last, origin in runs
        if first < stop and start < last
    ]


def covered(runs: Iterable[Run]) -> list[Range]:
    """The characters that were written, as ranges that do not touch, in order."""
    found: list[Range] = []
    for start, stop in sorted((origin, origin + last - first) for first, last, origin in runs):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        else:
            found.append((start, stop))
    return found


def missing(leaves: Sequence[Leaf], written: Sequence[Range]) -> Iterator[tuple[Leaf, str]]:
    """For each text what of it is not written; leaves and ranges are in order."""
    number = 0
    for leaf in leaves:
        place, stop, rest = leaf.start, leaf.start + len(leaf.text), ""
        while number < len(written) and written[number][1] <= place:
            number += 1
        at = number
        while place < stop:
            first, last = written[at] if at < len(written) else (stop, stop)
            rest += leaf.text[place - leaf.start : max(min(first, stop), place) - leaf.start]
            place, at = max(last, place), at + 1
        yield leaf, rest


def unwritten(leaves: Sequence[Leaf], written: Sequence[Range], roles: Sequence[str], template: str) -> list[str]:
    """A sentence for each field of a role that is not, or not wholly, in what was written."""
    texts: dict[tuple[int, str], list[str]] = {}
    for leaf, rest in missing(leaves, written):
        if leaf.says:
            both = texts.setdefault((leaf.message, leaf.field), ["", ""])
            both[0] += leaf.text
            both[1] += rest
    said: dict[str, None] = {}
    for (message, field), (text, rest) in texts.items():
        whose = field if message == TOOLS else f"{field} of the {roles[message]}"
        if rest.strip():
            what = whose if rest.strip() == text.strip() else f"a part of {whose}"
            said[f"{what} is not written by {template}"] = None
        elif rest and text.strip():
            said[f"white space around {whose} is not written by {template}"] = None
        elif rest:
            said[f"{whose}, which is white space, is not written by {template}"] = None
    return list(said)


def unread(messages: Sequence[Mapping[str, Any]], read: Iterable[tuple[int, str]], template: str) -> dict[int, str]:
    """A sentence for each field without a text, a number or a list of them, that a template never looks at."""
    looked = set(read)
    said: dict[int, str] = {}
    for index, message in enumerate(messages):
        for name, value in message.items():
            is_text = name == "role" or any(True for _ in _texts(value, name))
            if not is_text and value not in ("", [], {}) and (index, name) not in looked:
                said[index] = f"{name} of the {message['role']} is not written by {template}"
    return said
