"""What ends a turn of the assistant in a template, found by rendering short turns of several kinds."""

from dataclasses import dataclass
from typing import Any

from thetahat.data.read.dialogue import Dialogue, parse_dialogue

_USER, _SAID = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Here."}
_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "find", "arguments": {"city": "Oslo"}}}
_LAST: tuple[dict[str, Any], ...] = (
    _SAID,
    {**_SAID, "tool_calls": [_CALL]},
    {"role": "assistant", "content": None, "tool_calls": [_CALL]},
    {**_SAID, "reasoning_content": "Hm."},
    {**_SAID, "thinking": "Hm."},
)


@dataclass(frozen=True, slots=True)
class TurnEnds:
    """All by which a turn of the assistant may end: special tokens, and where none does a text, compared as text."""

    tokens: frozenset[int]
    text: str = ""

    def __or__(self, other: "TurnEnds") -> "TurnEnds":
        return TurnEnds(self.tokens | other.tokens, self.text or other.text)


def trials() -> list[Dialogue]:
    """Dialogues that end in turns of several kinds; a template may refuse some of them."""
    system = {"role": "system", "content": "Be kind."}
    shown = [[_USER, last] for last in _LAST] + [[system, _USER, _SAID], [_USER, _SAID, _USER, _SAID]]
    return [parse_dialogue({"messages": messages}, "a trial of the template") for messages in shown]
