"""In which form a template reads what messages hold in several: found by asking it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from thetahat.data.chat.account import covered, leaves_of
from thetahat.data.chat.rendering import Job, Refusal, Rendered, Renderer, Scene
from thetahat.data.chat.template import ChatTemplate
from thetahat.data.read.dialogue import Message

_SAID = "Where is it?"
_ARGUMENTS = {"city": "Oslo"}
_PARTS = [{"type": "text", "text": _SAID}]
_JSON = json.JSONEncoder(ensure_ascii=False).encode
Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Forms:
    """What a template reads."""

    texts: frozenset[str] = frozenset()  # roles whose content it writes where that is a text
    parts: frozenset[str] = frozenset()  # roles whose content it writes where that is a list of parts
    objects: bool = False  # whether it writes the arguments of a tool call that are an object
    json: bool = False  # the same for a text of JSON
    asks: bool = True  # whether it writes something else where add_generation_prompt is set

    def given(self, message: Message) -> tuple[Fields, list[str]]:
        """The fields that the template is given for a message, without those that are null, and what is to be said."""
        fields = {name: value for name, value in message.fields.items() if value is not None}
        notes: list[str] = []
        if message.parts is not None and message.role in self.parts:
            fields["content"] = list(message.parts)
        elif message.parts is not None:
            more = dict.fromkeys(name for part in message.parts for name in part if name not in {"type", "text"})
            notes += [f"content.{name} of the {message.role} is not written, its parts are joined" for name in more]
        elif message.role in self.parts - self.texts:
            fields["content"] = [{"type": "text", "text": fields["content"]}]
        if isinstance(calls := fields.get("tool_calls"), list):
            fields["tool_calls"] = [self._call(call, notes) for call in cast("list[Fields]", calls)]
        return fields, notes

    def _call(self, call: Mapping[str, Any], notes: list[str]) -> Fields:
        call = {name: value for name, value in call.items() if value is not None}
        if isinstance(function := call.get("function"), dict):
            return {**call, "function": self._call(cast("Fields", function), notes)}
        if "arguments" in call:
            call["arguments"] = self._arguments(call["arguments"], notes)
        return call

    def _arguments(self, given: Any, notes: list[str]) -> Any:
        if isinstance(given, str) and self.objects and not self.json:
            try:
                read = json.loads(given)
            except (ValueError, RecursionError):
                read = None
            if isinstance(read, dict):
                notes.append("arguments of tool calls, which are a text of JSON, are read as the object that it holds")
                return cast("Fields", read)
            notes.append("arguments of tool calls are a text that is no object of JSON, and are given as they are")
        if isinstance(given, dict) and self.json and not self.objects:
            notes.append("arguments of tool calls, which are an object, are given as a text of JSON")
            return _JSON(given)
        if isinstance(given, dict) and None in cast("Fields", given).values():
            notes.append("arguments of tool calls hold nulls, which are written like other values")
        return given


@dataclass(frozen=True, slots=True)
class _Trial:
    """A short dialogue, and where in it the text stands that should be written."""

    messages: Sequence[Fields]
    field: str = "content"
    index: int = 0
    asks: bool = False


def forms_of(template: ChatTemplate, renderer: Renderer) -> Forms:
    """What a template reads, by rendering a few short dialogues."""
    contents = {(role, is_text): _content(role, is_text=is_text) for role in _PLACES for is_text in (True, False)}
    calls = {is_json: _call(_JSON(_ARGUMENTS) if is_json else _ARGUMENTS) for is_json in (True, False)}
    headers = {asks: _Trial([_user()], asks=asks) for asks in (True, False)}
    trials = [*contents.values(), *calls.values(), *headers.values()]
    answers = dict(zip(map(id, trials), _rendered(trials, template, renderer), strict=True))

    def writes(trial: _Trial) -> bool:
        return _writes(trial, answers[id(trial)])

    texts, parts = (frozenset(role for role in _PLACES if writes(contents[role, is_text])) for is_text in (True, False))
    text = answers[id(calls[True])]
    is_verbatim = isinstance(text, Rendered) and _JSON(_ARGUMENTS) in text.text
    with_prompt, without = (answers[id(headers[asks])] for asks in (True, False))
    return Forms(
        texts,
        parts,
        objects=writes(calls[False]),
        json=is_verbatim and writes(calls[True]),
        asks=isinstance(with_prompt, Refusal) or isinstance(without, Refusal) or with_prompt.text != without.text,
    )


def _user(content: Any = "Hello") -> Fields:
    return {"role": "user", "content": content}


_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "find", "arguments": _ARGUMENTS}}
_ANSWER = {"role": "assistant", "content": "Here."}
# Where a message of a role may stand: what comes before it and behind it.
_PLACES: Mapping[str, tuple[Sequence[Fields], Sequence[Fields]]] = {
    "system": ([], [_user(), _ANSWER]),
    "developer": ([], [_user(), _ANSWER]),
    "user": ([], [_ANSWER]),
    "assistant": ([_user()], []),
    "tool": ([_user(), {"role": "assistant", "content": "", "tool_calls": [_CALL]}], [_ANSWER]),
}


def _content(role: str, *, is_text: bool) -> _Trial:
    before, behind = _PLACES[role]

    def formed(fields: Fields) -> Fields:  # a template of parts may read nothing else
        is_said = fields["content"] and not is_text
        return {**fields, "content": [{"type": "text", "text": fields["content"]}]} if is_said else fields

    asked = {"role": role, "content": _SAID if is_text else _PARTS}
    if role == "tool":
        asked |= {"tool_call_id": _CALL["id"], "name": "find"}
    return _Trial([*map(formed, before), asked, *map(formed, behind)], index=len(before))


def _call(arguments: Any) -> _Trial:
    function = {"name": "find", "arguments": arguments}
    call = {"role": "assistant", "content": "", "tool_calls": [{**_CALL, "function": function}]}
    return _Trial([_user(), call], "tool_calls.function.arguments", 1)


def _rendered(trials: Sequence[_Trial], template: ChatTemplate, renderer: Renderer) -> list[Rendered | Refusal]:
    asked: list[tuple[Scene, Sequence[Job]]] = []
    for trial in trials:
        scene = Scene(f"the template {template.name}", template.source, trial.messages, template.given(), template.date)
        asked.append((scene, [(trial.asks, (0, len(trial.messages)))]))
    return [answer for (answer,) in renderer.render(asked)]


def _writes(trial: _Trial, answer: Rendered | Refusal) -> bool:
    """Whether the text is there, and not as Python shows a list or an object."""
    if isinstance(answer, Refusal):
        return False
    if answer.runs is None:
        return trial.field == "content" and _SAID in answer.text and "'text'" not in answer.text
    written = covered(answer.runs)
    leaves = [
        leaf
        for leaf in leaves_of(trial.messages, None)
        if (leaf.message, leaf.field) == (trial.index, trial.field) and not leaf.is_name
    ]
    is_shown = "'text'" in answer.text or "'city'" in answer.text
    return not is_shown and all(
        any(start <= leaf.start and leaf.start + len(leaf.text) <= stop for start, stop in written) for leaf in leaves
    )
