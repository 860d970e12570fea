"""In which form a record is written: ours, or one that other programs write, read as what it is.

    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}   a dialogue (ShareGPT)
    {"prompt": [{"role": "user", ...}], "completion": [{"role": "assistant", ...}]}       a dialogue (TRL)
    {"instruction": ..., "input": ..., "output": ...}                                     a prompt (Alpaca, Dolly)
    {"question": ..., "answer": ...}                                                      a prompt

What might be read in two ways is refused, and `data.columns` says which.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from thetahat.core.errors import DataError
from thetahat.data.config import COLUMNS, MARKS
from thetahat.data.read.strict_json import decode_json, kind_of_value

FORMATS = (
    '{"text": ...}, {"prompt": ..., "completion": ...}, {"text": ..., "label": ...} or {"messages": [...]}, each on '
    'one line; or "conversations", "instruction" and "output", "question" and "answer"'
)
OWN = {
    "text": frozenset({"text"}),
    "text and label": frozenset({"text", "label"}),
    "prompt and completion": frozenset({"prompt", "completion"}),
    "messages": frozenset({"messages"}),
}
_ORDER = ("prompt", "completion", "text", "label", "messages")
BESIDE = frozenset({"id", "source", "weight"})
_OF_DIALOGUES = frozenset({"answers", "tools"})
_DIALOGUES = ("conversations", "conversation")
_PAIRS = {
    ("instruction", "input"): ("output",),
    ("instruction", "context"): ("response",),
    ("prompt", ""): ("response",),
    ("query", ""): ("response",),
    ("question", ""): ("answer",),
}
"""A name of a prompt, one of what may stand behind it, and the names of its completion."""

_CHANGES = frozenset({"chosen", "rejected", "choices", "options", "context", "passage", "history"}) | {
    "system",
    "system_prompt",
    "input",
}
"""What cannot be left out beside a prompt and a completion without making another task of them."""

_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    **{"system": "system", "developer": "developer"},
}
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shaped:
    """A record under our names."""

    kind: str  # of OWN
    fields: Fields  # without what is null
    told: str  # how it was read, behind "read as"
    unread: tuple[str, ...]  # names of what else stood in it


def known_columns(columns: Mapping[str, str] | None) -> frozenset[str]:
    """All names that a record may be read from: of a table no other column is looked at."""
    foreign = {name for pair, answers in _PAIRS.items() for name in (*pair, *answers) if name}
    return COLUMNS | foreign | {*_DIALOGUES} | _CHANGES | {*(columns or {}).values()}


def shaped(fields: Fields, where: str, columns: Mapping[str, str] | None = None) -> Shaped:
    """The record under our names; raises DataError where it has none of the forms, or might have two.

    A field that is null is absent: tables write every column in every row. `columns` say under which names our fields
    stand; a text, a prompt and so on that they name is all that is read.
    """
    if not columns:
        return _found(fields, where)
    for name, column in columns.items():
        if column and column not in fields:
            keys = ", ".join(map(repr, fields)) or "none"
            what = f"{where}: no field {column!r}, which data.columns.{name} names; its keys: {keys}"
            raise DataError(what, cure=f"data.columns.{name}={name}, or another field that is there")
    beside = {name: column for name, column in columns.items() if name not in MARKS}
    asked = {name: column for name, column in columns.items() if name in MARKS}
    renamed = {name: one for name, one in fields.items() if name not in beside}
    renamed |= {name: fields[column] for name, column in beside.items() if column}
    shape = _chosen(fields, renamed, where, asked) if asked else _found(renamed, where)
    replaced = [name for name in without_nulls(fields) if name in beside]
    used = {*beside.values(), *asked.values()}
    unread = dict.fromkeys(name for name in (*shape.unread, *replaced) if name not in used)
    return replace(shape, unread=tuple(unread))


def _found(fields: Fields, where: str) -> Shaped:
    there = without_nulls(fields)
    if (kind := _own_kind(there)) is None:
        return _foreign(there, where, fields)
    return _own(kind, there, where, kind)


def as_prompt(fields: Fields, where: str) -> Fields:
    """The same with `prompt` or `messages`, where it has them under other names; what answers them is not looked at."""
    there = without_nulls(fields)
    if isinstance(there.get("prompt"), list) and "messages" not in there:
        return {**{name: one for name, one in there.items() if name != "prompt"}, "messages": there["prompt"]}
    if not {"prompt", "messages"}.isdisjoint(there):
        return {**there, **_messages(there, where)} if "messages" in there else there
    if name := next((name for name in _DIALOGUES if name in there), None):
        return {**there, "messages": _dialogue(there, name, where)[0]}
    for first, second in _PAIRS:
        if first in there and _changing(there, {first, second}) == []:
            return {**there, "prompt": _joined(there, first, second, where)}
    return there


def without_nulls(fields: Fields) -> dict[str, Any]:
    """The fields that have a value."""
    return {key: value for key, value in fields.items() if value is not None}


def _own_kind(there: Fields) -> str | None:
    found = MARKS.intersection(there)
    return next((kind for kind, wanted in OWN.items() if wanted == found), None)


def _chosen(fields: Fields, renamed: Fields, where: str, columns: Mapping[str, str]) -> Shaped:
    """The record of the fields that are asked for, and nothing else but what may stand beside, which is renamed."""
    beside = {name: renamed[name] for name in (*BESIDE, *_OF_DIALOGUES) if name in renamed}
    there = without_nulls(beside | {name: fields[column] for name, column in columns.items()})
    if (kind := _own_kind(there)) is None:
        raise DataError(f"{where}: {_lacking(there, fields)}", allowed=FORMATS)
    others = [name for name in _ORDER if name in OWN[kind] and columns.get(name, name) != name]
    told = ", ".join(f"{name} from {columns[name]!r}" for name in others)
    one = _own(kind, there, where, f"{kind}: {told}" if told else kind)
    unread = [name for name in without_nulls(fields) if name not in beside]
    return Shaped(one.kind, one.fields, one.told, (*one.unread, *unread))


def _own(kind: str, there: dict[str, Any], where: str, told: str) -> Shaped:
    used = OWN[kind] | BESIDE
    if kind == "messages":
        there, used = {**there, **_messages(there, where)}, used | _OF_DIALOGUES
    elif kind == "prompt and completion" and any(isinstance(there[name], list) for name in OWN[kind]):
        kind, told, used = "messages", f"{told}, lists of messages: the completion is learned", used | _OF_DIALOGUES
        there = {**there, "messages": _of_two_lists(there, where)} | _tools(there, where)
    return Shaped(kind, there, told, tuple(name for name in there if name not in used | {"messages"}))


def _foreign(there: dict[str, Any], where: str, fields: Fields) -> Shaped:
    marks = MARKS.intersection(there)
    if {"chosen", "rejected"} <= there.keys():
        name = "completion" if "prompt" in there else "messages"
        beside = "data.columns.prompt=prompt " if "prompt" in there else ""
        cure = f"{beside}data.columns.{name}=chosen, to learn what was chosen"
        raise DataError(f"{where}: a preference", allowed=FORMATS, cure=cure)
    if not marks and (name := next((name for name in _DIALOGUES if name in there), None)):
        messages, told = _dialogue(there, name, where)
        return _made("messages", there, {"messages": messages} | _tools(there, where), told, {name, "system"})
    for (first, second), (answer,) in _PAIRS.items():
        if {first, answer} <= there.keys() and marks <= {first}:
            return _pair(there, first, second, answer, where)
    raise DataError(f"{where}: {_lacking(there, fields)}", allowed=FORMATS, cure=_cure(there))


def _lacking(there: Fields, fields: Fields) -> str:
    found = MARKS.intersection(there)
    keys = ", ".join(map(repr, fields)) or "none"
    if not found:
        null = next((key for key in fields if key in MARKS), None)
        return f"the {null} is null" if null else f"a record without a text; its keys: {keys}"
    halves = [name for name, wanted in OWN.items() if found < wanted and name != "text and label"]
    return f"{f'half a record of {halves[0]}' if halves else 'a mixture of formats in one record'}; its keys: {keys}"


def _cure(there: Fields) -> str:
    """What to type so that one of several forms is read, or a text under another name."""
    found = MARKS.intersection(there)
    whole = [wanted for wanted in OWN.values() if wanted <= found]
    if whole:
        best = next((wanted for wanted in whole if "messages" in wanted), whole[0])
        return " ".join(f"data.columns.{name}={name}" for name in sorted(best)) + ", to read nothing else"
    texts = [name for name, value in there.items() if isinstance(value, str) and name not in BESIDE]
    if not texts or found:
        return ""
    return f"data.columns.text={max(texts, key=lambda name: len(there[name]))}, if that is the text"


def _pair(there: dict[str, Any], first: str, second: str, answer: str, where: str) -> Shaped:
    if changing := _changing(there, {first, second, answer}):
        cure = f"data.columns.prompt={first} data.columns.completion={answer}, to read them alone"
        what = f"{where}: {first} and {answer} beside {changing[0]!r}, which may belong to the prompt"
        raise DataError(what, allowed=FORMATS, cure=cure)
    pair = {"prompt": _joined(there, first, second, where), "completion": there[answer]}
    is_joined = bool(second and there.get(second))
    names = f"{first}, {second} and {answer}" if is_joined else f"{first} and {answer}"
    told = f"{names}: the prompt is {first}{f', a blank line, {second}' if is_joined else ''}"
    return _made("prompt and completion", there, pair, told, {first, second, answer})


def _made(kind: str, there: dict[str, Any], made: dict[str, Any], told: str, used: set[str]) -> Shaped:
    beside = BESIDE | (_OF_DIALOGUES if kind == "messages" else frozenset())
    fields = {name: value for name, value in there.items() if name in beside} | made
    return Shaped(kind, fields, told, tuple(name for name in there if name not in used | beside))


def _changing(there: Fields, used: set[str]) -> list[str]:
    return sorted(name for name in _CHANGES - used if there.get(name) not in (None, "", []))


def _joined(there: Fields, first: str, second: str, where: str) -> Any:
    """The prompt: what is asked and, where there is some, what it is asked about behind a blank line."""
    more = there.get(second) if second else None
    if more is not None and not isinstance(more, str):
        raise DataError(f"{where}: the {second} is {kind_of_value(more)}", allowed="a string")
    asked = there[first]
    if not more or not isinstance(asked, str):
        return asked
    return f"{asked}\n\n{more}" if asked else more


def _of_two_lists(there: Fields, where: str) -> list[Any]:
    """Prompt and completion of messages: those of the prompt are context, unless they say otherwise."""
    prompt, completion = (_list(there[name], f"{where}: the {name}") for name in ("prompt", "completion"))
    answers = [one for one in prompt if isinstance(one, dict) and one.get("role") == "assistant"]
    is_silent = [any(one is answer for answer in answers) and one.get("weight") is None for one in prompt]
    context = [{**one, "weight": 0} if silent else one for one, silent in zip(prompt, is_silent, strict=True)]
    return [*context, *completion]


def _messages(there: Fields, where: str) -> dict[str, Any]:
    """Messages that are a struct of lists, or say from and value, as a list of role and content; and their tools."""
    given = _rows(there["messages"])
    if isinstance(given, list) and any(isinstance(one, dict) and "from" in one for one in given):
        given = _turns(given, f"{where}: messages")[0]
    return {"messages": given} | _tools(there, where)


def _tools(there: Fields, where: str) -> dict[str, Any]:
    """Tools that are a text of JSON as what it holds."""
    if not isinstance(text := there.get("tools"), str):
        return {}
    try:
        return {"tools": decode_json(text.encode()) if text.strip() else None}
    except ValueError as error:
        raise DataError(f"{where}: the tools are {error}", allowed="a list of objects, or a text of JSON") from error


def _dialogue(there: Fields, name: str, where: str) -> tuple[list[Any], str]:
    """The messages that a list of turns holds, and how it was read."""
    turns, said = _turns(_list(_rows(there[name]), f"{where}: {name}"), f"{where}: {name}")
    if system := there.get("system"):
        if turns and isinstance(turns[0], dict) and turns[0].get("role") == "system":
            raise DataError(f"{where}: a system message in {name}, and another beside it")
        turns = [{"role": "system", "content": system}, *turns]
    return turns, f"{name}: {said}" if said else name


def _turns(given: list[Any], where: str) -> tuple[list[Any], str]:
    turns: list[Any] = []
    said: dict[str, str] = {}
    for index, turn in enumerate(given):
        if not isinstance(turn, dict) or "from" not in turn:
            turns.append(turn)
            continue
        fields = cast("dict[str, Any]", turn)
        speaker = fields["from"]
        role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
        if role is None or "role" in fields or "content" in fields:
            what = f"from {speaker!r}" if role is None and isinstance(speaker, str) else "from beside role or content"
            raise DataError(f"{where}: turn {index}: {what}", allowed=f"from: {', '.join(_SPEAKERS)}; value")
        if role != speaker:
            said[speaker] = role
        rest = {name: value for name, value in fields.items() if name not in {"from", "value"}}
        turns.append({"role": role, "content": fields.get("value"), **rest})
    return turns, ", ".join(f"{speaker} is {role}" for speaker, role in said.items())


def _rows(given: Any) -> Any:
    """A struct of lists, as some tables keep a list of structs, as that list."""
    if isinstance(given, dict) and given and all(isinstance(column, list) for column in given.values()):
        columns = cast("dict[str, list[Any]]", given)
        if len({len(column) for column in columns.values()}) == 1:
            rows = zip(*columns.values(), strict=True)
            return [without_nulls(dict(zip(columns, row, strict=True))) for row in rows]
    return given


def _list(given: Any, what: str) -> list[Any]:
    if not isinstance(given, list):
        raise DataError(f"{what} is {kind_of_value(given)}", allowed="a list of messages")
    return cast("list[Any]", given)
