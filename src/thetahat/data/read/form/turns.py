"""Turns of a dialogue in the layouts of others, as a list of messages with role and content."""

import re
from collections.abc import Mapping
from shlex import quote
from typing import Any, cast

from thetahat.core.errors import DataError
from thetahat.data.read.strict_json import decode_json, kind_of_value

DIALOGUES = ("conversations", "conversation")
SYSTEMS = ("system", "system_prompt", "system_message")  # names of what the system says, beside a dialogue or a pair
HISTORY = "history"
_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    **{"system": "system", "developer": "developer"},
}
_CALL = frozenset({"function_call", "tool_call"})
Fields = Mapping[str, Any]


def without_nulls(fields: Fields) -> dict[str, Any]:
    """The fields that have a value."""
    return {key: value for key, value in fields.items() if value is not None}


def of_two_lists(there: Fields, where: str) -> list[Any]:
    """Prompt and completion of messages: those of the prompt are context, unless they say otherwise."""
    prompt, completion = (_list(there[name], f"{where}: the {name}") for name in ("prompt", "completion"))
    answers = [one for one in prompt if isinstance(one, dict) and one.get("role") == "assistant"]
    is_silent = [any(one is answer for answer in answers) and one.get("weight") is None for one in prompt]
    context = [{**one, "weight": 0} if silent else one for one, silent in zip(prompt, is_silent, strict=True)]
    return [*context, *completion]


def messages_of(there: Fields, where: str) -> dict[str, Any]:
    """Messages that are a struct of lists, or say from and value, as a list of role and content; and their tools."""
    given = rows_of(there["messages"], f"{where}: messages")
    if isinstance(given, list) and any(isinstance(one, dict) and "from" in one for one in given):
        given = _turns(given, f"{where}: messages")[0]
    return {"messages": given} | tools_of(there, where)


def tools_of(there: Fields, where: str) -> dict[str, Any]:
    """Tools that are a text of JSON as what it holds."""
    if not isinstance(text := there.get("tools"), str):
        return {}
    try:
        return {"tools": decode_json(text.encode()) if text.strip() else None}
    except ValueError as error:
        raise DataError(f"{where}: the tools are {error}", allowed="a list of objects, or a text of JSON") from error


def dialogue(there: Fields, name: str, where: str) -> tuple[list[Any], str]:
    """The messages that a list of turns holds, and how it was read."""
    place = f"{where}: {name}"
    turns, said = _turns(_list(rows_of(there[name], place), place), place)
    if system := system_of(there, where):
        if turns and isinstance(turns[0], dict) and turns[0].get("role") == "system":
            raise DataError(f"{where}: a system message in {name}, and another beside it")
        turns = [*system, *turns]
    return turns, f"{name}: {said}" if said else name


def system_of(there: Fields, where: str) -> list[Any]:
    """The message of the system that stands beside a dialogue or a prompt, if it says anything."""
    said = [name for name in SYSTEMS if there.get(name)]
    if len(said) > 1:
        raise DataError(f"{where}: {said[0]} and {said[1]}, where there is one system")
    return [{"role": "system", "content": there[name]} for name in said]


def earlier_turns(there: Fields, where: str) -> list[Any]:
    """The turns of a history, pairs of what a user and the assistant said: they are context."""
    found: list[Any] = []
    for pair in _list(there.get(HISTORY) or [], f"{where}: {HISTORY}"):
        texts = cast("list[Any]", pair) if isinstance(pair, list) else []
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}: {HISTORY} is no list of pairs", allowed="[[what a user said, the answer], ...]")
        asked, answered = texts
        found += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered, "weight": 0}]
    return found


def _turns(given: list[Any], where: str) -> tuple[list[Any], str]:
    turns: list[Any] = []
    said: dict[str, str] = {}
    if given and all(isinstance(turn, str) for turn in given):
        roles = ("user", "assistant")
        return [{"role": roles[index % 2], "content": text} for index, text in enumerate(given)], "texts, by turns"
    if given and all(isinstance(turn, dict) and turn.keys() == {"input", "output"} for turn in given):
        pairs = [(turn["input"], turn["output"]) for turn in given]
        both = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in pairs]
        return [message for pair in both for message in pair], "input is user, output is assistant"
    for index, turn in enumerate(given):
        if not isinstance(turn, dict) or "from" not in turn:
            turns.append(turn)
            continue
        fields = cast("dict[str, Any]", turn)
        speaker = fields["from"]
        if speaker in _CALL:
            turns.append(_called(fields.get("value"), f"{where}: turn {index}"))
            said[speaker] = "a call of the assistant"
            continue
        role = _SPEAKERS.get(speaker.casefold()) if isinstance(speaker, str) else None
        if role is None or "role" in fields or "content" in fields:
            raise _no_speaker(speaker if role is None else None, f"{where}: turn {index}")
        if role != speaker:
            said[speaker] = role
        rest = {name: value for name, value in fields.items() if name not in {"from", "value"}}
        turns.append({"role": role, "content": fields.get("value"), **rest})
    return turns, ", ".join(f"{speaker} is {role}" for speaker, role in said.items())


def _no_speaker(speaker: Any, where: str) -> DataError:
    """The error for a turn whose speaker is not known (None: which says who speaks twice), with what renames it."""
    speakers = ", ".join([*_SPEAKERS, *sorted(_CALL)])
    allowed = f'"from" is one of {speakers}; "value" is what is said'
    if not isinstance(speaker, str):
        return DataError(f"{where}: from beside role or content", allowed=allowed)
    file = re.match(r"(.*?):\d+: ", where)
    old, new = (f'"from": "{name}"' for name in (speaker, "gpt"))
    is_plain = file is not None and not {"/", "'", "&", "\\"}.intersection(speaker)
    cure = f"sed 's/{old}/{new}/g' {quote(file[1])} > NEW.jsonl, if it is the assistant" if is_plain and file else ""
    return DataError(f"{where}: from {speaker!r}, who is unknown", allowed=allowed, cure=cure)


def _called(value: Any, where: str) -> dict[str, Any]:
    """The message of an assistant that calls a function, which is given as a text of JSON."""
    try:
        call = decode_json(value.encode()) if isinstance(value, str) else value
    except ValueError as error:
        raise DataError(f"{where}: the call is {error}", allowed='{"name": ..., "arguments": ...}') from error
    if not isinstance(call, dict) or "name" not in call:
        raise DataError(f"{where}: a call without a name", allowed='{"name": ..., "arguments": ...}')
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}


def are_told(*texts: Any) -> bool:
    """Whether all of these are texts of JSON that hold messages, as the cells of CSV and of some tables do."""
    return all(isinstance(text, str) and text.lstrip()[:1] == "[" and _holds_messages(text) for text in texts)


def _holds_messages(text: str) -> bool:
    try:
        found = decode_json(text.encode())
    except ValueError:
        return False
    each = cast("list[Any]", found) if isinstance(found, list) else []
    return bool(each) and all(isinstance(one, dict) and {"role", "content"} <= one.keys() for one in each)


def rows_of(given: Any, where: str) -> Any:
    """A struct of lists, as some tables keep a list of structs, as that list; and what a text of JSON holds.

    Cells of CSV are such texts.
    """
    if isinstance(given, str) and given.lstrip()[:1] in ("[", "{"):
        try:
            given = decode_json(given.encode())
        except ValueError as error:
            raise DataError(f"{where}: {error}", allowed="a list of messages, or a text of JSON") from error
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
