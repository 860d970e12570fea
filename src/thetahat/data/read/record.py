"""What a user writes, one per line, checked where it is read."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from thetahat.core.errors import DataError
from thetahat.data.config import ReadOptions
from thetahat.data.read.dialogue import Dialogue, Message, check_weight, parse_dialogue
from thetahat.data.read.form.shape import Shaped, shapes
from thetahat.data.read.strict_json import kind_of_value

_PLAIN = ReadOptions()
_ASKED_AND_GIVEN = {
    "text": ("text", None),
    "text and label": ("label", "text"),
    "prompt and completion": ("completion", "prompt"),
}


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
    read_as: str = ""  # in which form it was written
    unread: tuple[str, ...] = ()  # names of what else was written there

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


def parse_records(
    fields: Mapping[str, Any], where: str, options: ReadOptions = _PLAIN, *, id: str, source: str
) -> list[Record]:
    """What a JSON object holds, with this id and source where it brings none; errors name `where`.

    It is one record, but for a tree of messages, which has one for each path. `options` say under which names its text,
    prompt and so on stand; else it may have a form of others, see form/shape.py.
    """
    return [_record(shape, where, id, source) for shape in shapes(fields, where, options)]


def _record(shape: Shaped, where: str, id: str, source: str) -> Record:
    fields = shape.fields
    own_id = check_identity(fields.get("id"), where)
    id, document = own_id or id, document_of(own_id, id, source)
    source, weight = check_source(fields.get("source"), where) or source, check_weight(fields.get("weight"), 1.0, where)
    if shape.kind == "messages":
        dialogue = parse_dialogue(fields, where)
        record = Record("\n".join(dialogue.texts), id, document, source, weight, dialogue=dialogue, where=where)
        return replace(record, read_as=shape.told, unread=shape.unread)
    asked, given = _ASKED_AND_GIVEN[shape.kind]
    return Record(
        text=check_text(fields[asked], where, asked),
        id=id,
        document=document,
        source=source,
        weight=weight,
        prompt=None if given is None else check_text(fields[given], where, given),
        is_label=asked == "label",
        where=where,
        read_as=shape.told,
        unread=shape.unread,
    )


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
