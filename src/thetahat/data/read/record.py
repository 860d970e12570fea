"""What a user writes, one per line, checked where it is read."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thetahat.core.errors import DataError
from thetahat.data.read.dialogue import Dialogue, Message, parse_dialogue

FORMATS = (
    '{"text": ...}, {"prompt": ..., "completion": ...}, {"text": ..., "label": ...} or {"messages": [...]}, '
    "each on one line"
)
_KEYS = {
    "text": {"text"},
    "text and label": {"text", "label"},
    "prompt and completion": {"prompt", "completion"},
    "messages": {"messages"},
}
_MARKS = frozenset().union(*_KEYS.values())


@dataclass(frozen=True, slots=True)
class Record:
    """One text whose likelihood counts, given a prompt where there is one."""

    text: str  # a document, a completion or a label
    id: str
    document: str  # the cluster for intervals: FILE#ID where it brings an id, since ids belong to files; else its id
    source: str
    weight: float = 1.0
    prompt: str | None = None  # what the text is conditioned on
    is_label: bool = False  # whether the text is a label, and the prompt what it is a label of
    dialogue: Dialogue | None = None  # then the text is what all have said
    where: str = ""  # file and line, for errors about what it says

    @property
    def texts(self) -> tuple[str, ...]:
        """All that a tokenizer learns from."""
        if self.dialogue is not None:
            return self.dialogue.texts
        return (self.text,) if self.prompt is None else (self.prompt, self.text)

    @property
    def key(self) -> str:
        """What decides on which side of a division a record falls: records with the same prompt stay together.

        That of a dialogue is all that stands before the first answer, the system message included.
        """
        if self.dialogue is not None:
            return "\n".join(map(_said, _opening(self.dialogue)))
        return self.text if self.prompt is None else self.prompt

    @property
    def folded(self) -> str:
        """What is asked first (of a text: the text), without what hardly tells two apart: case, blanks, the system."""
        asked = self.key
        if self.dialogue is not None:
            opening = _opening(self.dialogue)
            users = [message for message in opening if message.role not in {"system", "developer"}]
            asked = "\n".join(map(_said, users or opening))
        return " ".join(asked.casefold().split())

    @property
    def canonical(self) -> str:
        """Everything that is in it, as one text: no two different contents look alike."""
        if self.dialogue is not None:
            return self.dialogue.canonical
        return self.text if self.prompt is None else json.dumps([self.prompt, self.text], ensure_ascii=False)

    @property
    def digest(self) -> bytes:
        """Of everything that is in it: the same for every tokenizer."""
        return hashlib.blake2b(self.canonical.encode(), digest_size=16).digest()


def _opening(dialogue: Dialogue) -> Sequence[Message]:
    """The messages before the first of the assistant; where it begins, that one."""
    messages = dialogue.messages
    first = next((index for index, message in enumerate(messages) if message.role == "assistant"), len(messages))
    return messages[: max(first, 1)]


def _said(message: Message) -> str:
    content = message.fields.get("content")
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, sort_keys=True)


def document_of(own_id: str, id: str, label: str) -> str:
    """The document of a record: ids belong to files, so that two files numbered from 0 are two sets of documents."""
    return f"{label}#{own_id}" if own_id else id


def parse_record(fields: Mapping[str, Any], where: str, *, id: str, source: str) -> Record:
    """The record that a JSON object holds, with this id and source where it brings none; errors name `where`.

    A field that is null is absent: tables write every column in every row.
    """
    known = _format_of(fields, where)
    fields = without_nulls(fields)
    own_id = check_identity(fields.get("id"), where)
    id, document = own_id or id, document_of(own_id, id, source)
    source, weight = check_source(fields.get("source"), where) or source, _weight(fields.get("weight"), where)
    if known == "messages":
        dialogue = parse_dialogue(fields, where)
        return Record("\n".join(dialogue.texts), id, document, source, weight, dialogue=dialogue, where=where)
    if any(isinstance(fields.get(name), list) for name in _KEYS["prompt and completion"]):
        raise _other_shape("prompt and completion as lists of messages", "{messages: (.prompt + .completion)}", where)
    asked, given = {"text": ("text", None), "text and label": ("label", "text")}.get(known, ("completion", "prompt"))
    return Record(
        text=check_text(fields[asked], where, asked),
        id=id,
        document=document,
        source=source,
        weight=weight,
        where=where,
        prompt=None if given is None else check_text(fields[given], where, given),
        is_label=asked == "label",
    )


def without_nulls(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields that have a value."""
    return {key: value for key, value in fields.items() if value is not None}


def check_text(text: Any, where: str, name: str = "text") -> str:
    """The text, if there is any and it is Unicode."""
    if not isinstance(text, str):
        raise DataError(f"{where}: the {name} is {kind_of_value(text)}", allowed="a string")
    if not text and name == "text":
        raise DataError(f"{where}: the document is empty", cure="remove it: it has nothing to predict")
    if not text:
        raise DataError(f"{where}: the {name} is empty", cure='remove it, or write the rest as {"text": ...}')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: half a surrogate pair at character {error.start}", allowed="any Unicode text"
        ) from error
    return text


def _format_of(fields: Mapping[str, Any], where: str) -> str:
    there = set(without_nulls(fields))
    found = there & _MARKS
    if known := next((name for name, wanted in _KEYS.items() if wanted == found), None):
        return known
    for names, what, made in _SHAPES:
        if names <= there:
            raise _other_shape(what, made, where)
    keys = ", ".join(repr(key) for key in fields) or "none"
    if not found:
        null = next((key for key in fields if key in _MARKS), None)
        what = f"the {null} is null" if null else f"a record without a text; its keys: {keys}"
        raise DataError(f"{where}: {what}", allowed=FORMATS)
    halves = [name for name, wanted in _KEYS.items() if found < wanted and name != "text and label"]
    what = f"half a record of {halves[0]}" if halves else "a mixture of formats in one record"
    raise DataError(f"{where}: {what}; its keys: {keys}", allowed=FORMATS)


_JOINED = '([%s] | map(select(. != null and . != "")) | join("\\n\\n"))'
_SHAPES = (
    ({"prompt", "chosen", "rejected"}, "a preference", "{prompt, completion: .chosen}"),
    ({"chosen", "rejected"}, "a preference", "{messages: .chosen}"),
    (
        {"conversations"},
        "a dialogue of conversations, from and value",
        '{messages: [.conversations[] | {role: ({human: "user", gpt: "assistant"}[.from] // .from), content: .value}]}',
    ),
    (
        {"instruction", "output"},
        "instruction and output",
        f"{{prompt: {_JOINED % '.instruction, .input'}, completion: .output}}",
    ),
    (
        {"instruction", "response"},
        "instruction and response",
        f"{{prompt: {_JOINED % '.instruction, .context'}, completion: .response}}",
    ),
    ({"prompt", "response"}, "prompt and response", "{prompt, completion: .response}"),
    ({"question", "answer"}, "question and answer", "{prompt: .question, completion: .answer}"),
    ({"query", "response"}, "query and response", "{prompt: .query, completion: .response}"),
)
"""Keys of other datasets, what they are, and the jq filter that makes of each such record one that is read here."""


def _other_shape(what: str, made: str, where: str) -> DataError:
    return DataError(f"{where}: {what}", allowed=FORMATS, cure=f"jq -c '{made}' FILE > NEW.jsonl")


def check_identity(value: Any, where: str) -> str:
    """The id that a record brings, or nothing."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(
            f"{where}: the id is {kind_of_value(value)}", allowed="a string that is not empty, or a whole number"
        )
    return str(value)


def check_source(value: Any, where: str) -> str:
    """The source that a record brings, or nothing."""
    if value is None or isinstance(value, str):
        return value or ""
    raise DataError(f"{where}: the source is {kind_of_value(value)}", allowed="a string")


def _weight(value: Any, where: str) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: the weight is {kind_of_value(value)}", allowed="a number, 0 or more")
    try:
        weight = float(value)
    except OverflowError:  # an integer of hundreds of digits
        weight = math.inf
    if not math.isfinite(weight) or weight < 0:
        raise DataError(
            f"{where}: the weight is {value:.6g}" if weight != math.inf else f"{where}: the weight is infinite",
            allowed="a finite number, 0 or more",
        )
    return weight


def kind_of_value(value: Any) -> str:
    """What JSON calls it."""
    names = {type(None): "null", bool: "true or false", list: "a list", dict: "an object", str: "a string"}
    if value == "":
        return "an empty string"
    return names.get(type(value), "a number")
