"""Questions with several answers, of which one is right, as they lie in the files of the field.

    {"good": "...", "bad": "..."}                                            a minimal pair (BLiMP)
    {"query": "...", "choices": ["...", ...], "gold": 1}                     multiple choice (COPA); HellaSwag writes
    {"ctx": "...", "endings": ["...", ...], "label": "1"}                    the same so
    {"context_options": ["...", ...], "continuation": "...", "gold": 0}      partial scoring (Winograd)
    {"context": "...", "continuation": "..."}                                a cloze (LAMBADA): is it the likeliest?
    {"messages": [...], "choices": ["...", ...], "gold": 1}                  the same behind a dialogue, for models that
    {"messages": [...], "continuation": "..."}                               were trained on dialogues

`id` and `source` may stand beside them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from thetahat.core.errors import DataError
from thetahat.data.config import OF_QUESTIONS, OnBadRecord
from thetahat.data.read.bad import BadRecords, tell_skipped
from thetahat.data.read.dialogue import Dialogue
from thetahat.data.read.files import find_files, label_files, say_once
from thetahat.data.read.form.shape import renamed
from thetahat.data.read.form.turns import without_nulls
from thetahat.data.read.named.kind import holds_objects
from thetahat.data.read.objects import read_objects
from thetahat.data.read.prompt import unanswered
from thetahat.data.read.record import (
    Record,
    check_identity,
    check_source,
    check_text,
    document_of,
)
from thetahat.data.read.shards.names import with_own_id
from thetahat.data.read.strict_json import kind_of_value

_FORMATS = (
    '{"good": ..., "bad": ...}, {"query": ..., "choices": [...], "gold": 0}, {"ctx": ..., "endings": [...], '
    '"label": 0}, {"context_options": [...], "continuation": ..., "gold": 0} or {"context": ..., "continuation": ...}, '
    'each on one line; "messages": [...] may stand for "query" and "context"'
)
_IN_TEMPLATE = "messages"
_SAME = {"ctx": "query", "endings": "choices", "label": "gold"}  # other names that are in use
_KEYS = (
    {"good", "bad"},
    {"query", "choices", "gold"},
    {"context_options", "continuation", "gold"},
    {"context", "continuation"},
    {_IN_TEMPLATE, "choices", "gold"},
    {_IN_TEMPLATE, "continuation"},
)
_MARKS = frozenset[str]().union(*_KEYS)
_COLUMNS = _MARKS | {*_SAME, "id", "source", "tools"}
_NAMES = OF_QUESTIONS | {_IN_TEMPLATE, "id", "source", "tools"}  # that data.columns may name
_TO_JSON = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Question:
    """Choices, what each of them comes after, and which one is right."""

    record: Record  # its identity: id, document, source and digest
    contexts: tuple[str, ...]  # one a choice; all empty: the choices are whole texts
    choices: tuple[str, ...]  # one alone: is it what the model would say?
    gold: int = 0
    dialogues: Mapping[str, Dialogue] = field(
        default_factory=dict[str, Dialogue]
    )  # what is asked instead of each context
    prompts: tuple[tuple[int, ...], ...] = ()  # of each choice what is read before it, where it is tokens already

    @property
    def shares_context(self) -> bool:
        """Whether all choices come after the same text."""
        return len(set(self.contexts)) == 1


def question(contexts: Sequence[str], choices: Sequence[str], gold: int, record: Record) -> Question:
    """A question; the text of its record becomes all that is in it, which is what its digest is of."""
    text = _TO_JSON([list(contexts), list(choices), gold])
    return Question(replace(record, text=text), tuple(contexts), tuple(choices), gold)


def read_questions(
    specs: str | Sequence[str],
    on_bad: OnBadRecord = "error",
    columns: Mapping[str, str] | None = None,
    *,
    chat: bool = False,
) -> list[Question]:
    """Every question of files, folders or globs, in order, each with an id of its own.

    `columns` say under which names its fields stand. With `chat` a context is what a user says in a dialogue of one
    message.
    """
    files, known = find_files(specs), _COLUMNS | {*(columns or {}).values()}
    taken: dict[str, int] = {}
    questions: list[Question] = []
    bad = BadRecords(on_bad)
    for path, label in zip(files, label_files(files), strict=True):
        if not holds_objects(path):
            raise DataError(f"{path} is plain text, not questions", allowed=_FORMATS)
        for number, fields in read_objects(path, formats=_FORMATS, columns=known, on_error=bad):
            try:
                fields, missing = renamed(fields, columns, _NAMES)
                if missing:
                    names = ", ".join(map(repr, missing))
                    say_once(f"questions without {names}, which data.columns names, are read as they are")
                asked = parse_question(fields, f"{path}:{number}", id=f"{label}:{number}", source=label)
                asked = _said_by_a_user(asked) if chat else asked
            except DataError as error:
                bad(error)
            else:
                questions.append(replace(asked, record=with_own_id(asked.record, taken)))
    bad.settle()
    tell_skipped(*bad.lines)
    if not questions:
        raise DataError(f"{', '.join(map(str, files))}: no question", allowed=_FORMATS)
    return questions


def parse_question(fields: Mapping[str, Any], where: str, *, id: str, source: str) -> Question:
    """The question that a JSON object holds, with this id and source where it brings none; errors name `where`."""
    fields = _with_one_name(fields, where)
    own_id = check_identity(fields.get("id"), where)
    record = Record(
        "",
        own_id or id,
        document_of(own_id, id, source),
        check_source(fields.get("source"), where) or source,
        where=where,
    )
    match _format_of(fields, where):
        case 0:
            choices = [check_text(fields[name], where, name) for name in ("good", "bad")]
            return question(["", ""], choices, 0, record)
        case 1:
            choices = _texts(fields["choices"], where, "choices")
            return question(
                [_context(fields, "query", where)] * len(choices), choices, _gold(fields, len(choices), where), record
            )
        case 2:
            contexts = _texts(fields["context_options"], where, "context_options")
            choices = [check_text(fields["continuation"], where, "continuation")] * len(contexts)
            return question(contexts, choices, _gold(fields, len(contexts), where), record)
        case 3:
            choice = check_text(fields["continuation"], where, "continuation")
            return question([_context(fields, "context", where)], [choice], 0, record)
        case _:
            return _in_template(fields, where, record)


def _in_template(fields: Mapping[str, Any], where: str, record: Record) -> Question:
    """A question that a dialogue asks; the answer to its last message is chosen."""
    if "continuation" in fields:
        choices, gold = [check_text(fields["continuation"], where, "continuation")], 0
    else:
        choices = _texts(fields["choices"], where, "choices")
        gold = _gold(fields, len(choices), where)
    given = fields[_IN_TEMPLATE]
    if isinstance(given, list) and given and isinstance(given[-1], dict) and given[-1].get("role") == "assistant":
        raise DataError(f"{where}: the last message is the assistant's, whose answer is to be chosen")
    dialogue = unanswered(fields, where)
    context = _TO_JSON([given, fields.get("tools")])
    return replace(question([context] * len(choices), choices, gold, record), dialogues={context: dialogue})


def _said_by_a_user(asked: Question) -> Question:
    """The same question, asked in a dialogue; one that is a dialogue already stays as it is."""
    where = asked.record.where
    if not all(asked.contexts):
        raise DataError(f"{where}: no context, which a user would say under --chat", cure="leave --chat out")
    said = {context: {"messages": [{"role": "user", "content": context}]} for context in asked.contexts}
    dialogues = {context: unanswered(message, where) for context, message in said.items()}
    return asked if asked.dialogues else replace(asked, dialogues=dialogues)


def _with_one_name(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for key, value in without_nulls(fields).items():
        if (name := _SAME.get(key, key)) in named:
            raise DataError(f"{where}: both {name!r} and another name of it", allowed=_FORMATS)
        named[name] = value
    return named


def _format_of(fields: Mapping[str, Any], where: str) -> int:
    found = set(_MARKS.intersection(fields))
    if found in _KEYS:
        return _KEYS.index(found)
    keys = ", ".join(map(repr, fields)) or "none"
    raise DataError(f"{where}: no question of a known format; its keys: {keys}", allowed=_FORMATS)


def _texts(value: Any, where: str, name: str) -> list[str]:
    if not isinstance(value, list) or len(value) < 2:
        what = f"{len(value)}" if isinstance(value, list) else kind_of_value(value)
        raise DataError(f"{where}: {name}: {what}", allowed="a list of two or more texts")
    return [check_text(text, where, f"{name}[{index}]") for index, text in enumerate(value)]


def _context(fields: Mapping[str, Any], name: str, where: str) -> str:
    """It may be empty: then the choices are whole texts."""
    return fields[name] if fields[name] == "" else check_text(fields[name], where, name)


def _gold(fields: Mapping[str, Any], num_choices: int, where: str) -> int:
    gold = fields["gold"]
    if isinstance(gold, str) and gold.isdecimal():  # HellaSwag's
        gold = int(gold)
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < num_choices:
        shown = gold if type(gold) in {int, float} else kind_of_value(gold)
        raise DataError(f"{where}: the right choice is {shown}", allowed=f"a whole number, 0 to {num_choices - 1}")
    return gold
