"""What a user writes as `messages`, checked where it is read.

    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi", "weight": 0.5}]}
    {"messages": [{"role": "user", "content": "Two plus two?"}], "answers": ["4", {"content": "Four."}]}

`tools` may stand beside them. What else a message holds (tool_calls, reasoning_content, name) is for the template.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from thetahat.core.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
_DEEPEST = 100  # tool calls in objects in lists
_WEIGHTS = "0, or a finite number from 1e-300 to 1e300"
_SHAPE = '{"role": "user", "content": "..."}'


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of somebody."""

    role: str
    weight: float  # what each token of it counts for; 0: it is context
    fields: Mapping[str, Any]  # what the template is given, role and content (one text) among it
    parts: tuple[Mapping[str, Any], ...] | None = None  # the content where it was given so: parts of text
    says_weight: bool = False  # whether the record itself tells the weight


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Who said what, and what else could have been said in the end."""

    messages: tuple[Message, ...]
    answers: tuple[Message, ...] = ()  # alternatives, each an answer to all of `messages`
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """What is said, of which a tokenizer learns."""
        return tuple(message.fields["content"] for message in (*self.messages, *self.answers))

    @property
    def is_supervised(self) -> bool:
        """Whether anything in it counts."""
        return any(message.weight > 0 for message in (*self.messages, *self.answers))

    @property
    def canonical(self) -> str:
        """Everything that is in it, as one text: no two different dialogues look alike."""
        said = [[[message.weight, dict(message.fields)] for message in some] for some in (self.messages, self.answers)]
        return json.dumps([*said, list(self.tools)], ensure_ascii=False, sort_keys=True)


def parse_dialogue(fields: Mapping[str, Any], where: str) -> Dialogue:
    """The dialogue of a record, from its `messages`, `answers` and `tools`; errors name `where`."""
    messages = tuple(
        _message(value, f"{where}: message {index}")
        for index, value in enumerate(_list(fields.get("messages"), f"{where}: messages", f"[{_SHAPE}, ...]"))
    )
    allowed = '["...", ...], or objects with content and weight'
    given = fields.get("answers")
    given = [] if given is None else _list(given, f"{where}: answers", allowed)
    answers = tuple(_answer(value, f"{where}: answer {index}") for index, value in enumerate(given, 1))
    tools = _list(fields.get("tools") or [], f"{where}: tools", "a list of objects")
    if strange := [tool for tool in tools if not isinstance(tool, dict)]:
        raise DataError(f"{where}: a tool is {_kind(strange[0])}", allowed="an object")
    _check_json(tools, f"{where}: tools")
    dialogue = Dialogue(messages, answers, tuple(cast("list[Mapping[str, Any]]", tools)))
    _check_order(dialogue, where)
    return dialogue


def _check_order(dialogue: Dialogue, where: str) -> None:
    roles = [message.role for message in dialogue.messages]
    systems = [index for index, role in enumerate(roles) if role == "system"]
    if len(systems) > 1:
        raise DataError(
            f"{where}: messages {systems[0]} and {systems[1]} are both of the system",
            allowed="one system message, the first",
        )
    if systems and systems[0] > 0:
        raise DataError(f"{where}: message {systems[0]} is of the system", allowed="the first message only")
    if dialogue.answers and roles[-1:] in ([], ["assistant"], ["system"]):
        raise DataError(
            f"{where}: answers to {'nothing' if not roles else 'a message of ' + roles[-1]}",
            allowed="answers where the last message is of user, developer or tool",
        )
    everything = (*dialogue.messages, *dialogue.answers)
    if not any(message.role == "assistant" for message in everything):
        raise DataError(f"{where}: no message of the assistant; roles: {', '.join(roles) or 'none'}", cure="remove it")


def _answer(value: Any, where: str) -> Message:
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {"content": value}
    message = _message({"role": "assistant", **fields}, where)
    if message.role != "assistant":
        raise DataError(f"{where}: the role is {message.role!r}", allowed="assistant, which need not be said")
    return message


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {_kind(value)}", allowed=_SHAPE)
    fields = cast("dict[str, Any]", value)
    role = fields.get("role")
    if role not in ROLES:
        said = repr(role) if isinstance(role, str) else "missing" if "role" not in fields else _kind(role)
        raise DataError(f"{where}: the role is {said}", allowed=", ".join(ROLES))
    calls = _list(fields.get("tool_calls") or [], f"{where}: tool_calls", "a list of objects")
    if strange := [call for call in calls if not isinstance(call, dict)]:
        raise DataError(f"{where}: a tool call is {_kind(strange[0])}", allowed="an object")
    kept = {name: given for name, given in fields.items() if name not in ("weight", "content")}
    weight = check_weight(fields.get("weight"), 1.0 if role == "assistant" else 0.0, where)
    says_weight = fields.get("weight") is not None
    kept["content"], parts = _content(fields.get("content"), where)
    if not kept["content"]:
        _check_empty(fields, where, may_be=bool(calls) or (role == "assistant" and says_weight))
    _check_json([kept, parts or []], where)
    return Message(role, weight, kept, parts, says_weight)


def _content(value: Any, where: str) -> tuple[str, tuple[Mapping[str, Any], ...] | None]:
    """The text, and the parts where there are any; null is nothing, as in a column that Arrow has filled."""
    allowed = 'a string, or [{"type": "text", "text": "..."}, ...]'
    if isinstance(value, list):
        parts = cast("list[Any]", value)
        for part in parts:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = repr(part.get("type")) if isinstance(part, dict) else _kind(part)
                raise DataError(f"{where}: a part of its content is {kind}", allowed=allowed)
        kept = tuple({name: given for name, given in part.items() if given is not None} for part in parts)
        return "".join(part["text"] for part in kept), kept
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: the content is {_kind(value)}", allowed=allowed)
    return value or "", None


def _check_empty(fields: Mapping[str, Any], where: str, *, may_be: bool) -> None:
    """A message without content: of the assistant it may be a thought, of others "" must have been meant.

    Null is nothing, as in a column that Arrow has filled: instructions may be absent so, what a user says may not.
    Whether the template writes what a message has instead is seen when it is rendered.
    """
    role, is_meant = fields["role"], fields.get("content") is not None
    is_absent = role in {"system", "developer"} and "content" in fields
    if may_be or (role != "assistant" and (is_meant or is_absent)):
        return
    others = {name: value for name, value in fields.items() if name not in {"role", "content", "weight", "name"}}
    if fields["role"] == "assistant" and any(isinstance(value, str) and value for value in others.values()):
        return
    content = fields.get("content")
    raise DataError(
        f"{where}: the content is {'empty' if content is not None else 'missing or null'}",
        allowed="text; none only beside tool_calls, thoughts or a weight",
        cure='"weight": 0 makes an empty answer context, "weight": 1 asks for its end alone',
    )


def check_weight(value: Any, default: float, where: str) -> float:
    """The weight of a record or a message, within the bounds in which sums and quotients of weights are numbers."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: the weight is {_kind(value)}", allowed=_WEIGHTS)
    if value != 0 and not 1e-300 <= value <= 1e300:  # an integer may have hundreds of digits
        is_large = isinstance(value, int) and abs(value) > 1e300
        raise DataError(f"{where}: the weight is {'far too large' if is_large else f'{value:.6g}'}", allowed=_WEIGHTS)
    return float(value)


def _check_json(value: Any, where: str, room: int = _DEEPEST) -> None:
    if room == 0:
        raise DataError(f"{where}: lists and objects more than {_DEEPEST} deep", cure="a flatter record")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: half a surrogate pair at character {error.start} of {value[:40]!r}",
                allowed="any Unicode text",
            ) from error
    elif isinstance(value, Mapping):
        for name, below in cast("Mapping[str, Any]", value).items():
            _check_json(name, where, room - 1)
            _check_json(below, where, room - 1)
    elif isinstance(value, Sequence):
        for below in cast("Sequence[Any]", value):
            _check_json(below, where, room - 1)


def _list(value: Any, what: str, allowed: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{what}: {_kind(value)}", allowed=allowed)
    return cast("list[Any]", value)


def _kind(value: Any) -> str:
    names = {type(None): "missing or null", bool: "true or false", list: "a list", dict: "an object", str: "a string"}
    if value == "":
        return "an empty string"
    return names.get(type(value), "a number")
