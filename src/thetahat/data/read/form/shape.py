"""In which form a record is written: ours, or one that other programs write, read as what it is.

    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}   a dialogue (ShareGPT)
    {"prompt": [{"role": "user", ...}], "completion": [{"role": "assistant", ...}]}       a dialogue (TRL)
    {"instruction": ..., "input": ..., "output": ...}                                     a prompt (Alpaca, Dolly)
    {"question": ..., "answer": ...}, {"inputs": ..., "targets": ...}                     a prompt (GSM8K, FLAN)
    {"system_prompt": ..., "question": ..., "response": ...}                              a dialogue (OpenOrca)
    {"prompt": ..., "chosen": ..., "rejected": ...}                                       see preference.py
    {"message_tree_id": ..., "prompt": {"text": ..., "replies": [...]}}                   see trees.py (OASST)

What might be read in two ways is refused, and `data.columns` says which.
"""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any, cast

from thetahat.core.errors import ConfigError, DataError
from thetahat.data.config import COLUMNS, MARKS, OF_QUESTIONS, ReadOptions
from thetahat.data.read.form.preference import ASKED, chosen_of
from thetahat.data.read.form.trees import NODE, is_tree, paths_of
from thetahat.data.read.form.turns import (
    DIALOGUES,
    HISTORY,
    SYSTEMS,
    Fields,
    are_told,
    dialogue,
    earlier_turns,
    messages_of,
    of_two_lists,
    rows_of,
    system_of,
    tools_of,
    without_nulls,
)
from thetahat.data.read.strict_json import kind_of_value
from thetahat.data.read.table.rows import UNREAD

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
_PAIRS = {
    ("instruction", "input"): ("output", "response"),
    ("instruction", "context"): ("response",),
    ("definition", "inputs"): ("targets",),
    ("context", "question"): ("answer", "answers"),
    ("inputs", ""): ("targets",),
    ("prompt", ""): ("response",),
    ("query", ""): ("response",),
    ("question", ""): ("answer", "response"),
    ("problem", ""): ("solution",),
}
"""A name of a prompt, one of what may stand behind it, and the names of its completion."""

_FOREIGN = frozenset({*DIALOGUES, "chosen", *(answer for answers in _PAIRS.values() for answer in answers)})
"""Names of others without which a record has nothing to learn."""

_CHANGES = frozenset({"chosen", "rejected", "choices", "options", "context", "passage", "input", "definition"})
"""What cannot be left out beside a prompt and a completion without making another task of them."""


@dataclass(frozen=True, slots=True)
class Shaped:
    """A record under our names."""

    kind: str  # of OWN
    fields: Fields  # without what is null
    told: str  # how it was read, behind "read as"
    unread: tuple[str, ...]  # names of what else stood in it


def known_columns(columns: Mapping[str, str] | None) -> frozenset[str]:
    """All names that a record may be read from: of a table no other column is looked at.

    Raises ConfigError where `columns` name what only questions have.
    """
    if strange := sorted(OF_QUESTIONS.intersection(columns or {})):
        what = f"data.columns.{strange[0]} has no effect: it is of questions, which thetahat choose reads"
        raise ConfigError(what, allowed=", ".join(sorted(COLUMNS)), cure="leave it out")
    foreign = {name for pair, answers in _PAIRS.items() for name in (*pair, *answers) if name}
    others = {*DIALOGUES, *SYSTEMS, HISTORY, *NODE}
    return COLUMNS | foreign | others | _CHANGES | {*(columns or {}).values()}


def shapes(fields: Fields, where: str, options: ReadOptions) -> list[Shaped]:
    """What an object holds under our names: one record, or of a tree of messages one for each path; see `shaped`."""
    there = without_nulls(fields)
    if is_tree(there) and not options.columns:
        told = f"a tree of messages: {options.trees} replies, each learned once"
        paths = paths_of(there, where, options.trees)
        unread = tuple(name for name in there if name not in {"prompt", "message_tree_id", "id"})
        return [Shaped("messages", path, told, unread) for path in paths]
    if {"chosen", "rejected"} <= there.keys() and not MARKS.intersection(options.columns or {}):
        made, told = chosen_of(there, where, options.preference)
        kind = "messages" if "messages" in made else "prompt and completion"
        return [_made(kind, there, made, told, {"prompt", "chosen", "messages", *DIALOGUES, *SYSTEMS, *ASKED})]
    return [shaped(fields, where, options.columns)]


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
            near = difflib.get_close_matches(column, fields, n=1) or ([name] if name in fields else [])
            cure = f"data.columns.{name}={near[0]}" if near else f"data.columns.{name}=COLUMN, one that is there"
            raise DataError(what, cure=cure)
    beside = {name: column for name, column in columns.items() if name not in MARKS}
    asked = {name: column for name, column in columns.items() if name in MARKS and column}
    if dropped := {name for name, column in columns.items() if name in MARKS and not column}:
        rest = {name: one for name, one in fields.items() if name not in dropped}
        shape = shaped(rest, where, {name: column for name, column in columns.items() if name not in dropped})
        return replace(shape, unread=(*shape.unread, *(name for name in without_nulls(fields) if name in dropped)))
    renamed = {name: one for name, one in fields.items() if name not in beside}
    renamed |= {name: fields[column] for name, column in beside.items() if column}
    shape = _chosen(fields, renamed, where, asked) if asked else _found(renamed, where)
    replaced = [name for name in without_nulls(fields) if name in beside]
    used = {*beside.values(), *asked.values()}
    unread = dict.fromkeys(name for name in (*shape.unread, *replaced) if name not in used)
    return replace(shape, unread=tuple(unread))


def _found(fields: Fields, where: str) -> Shaped:
    there = without_nulls(fields)
    if there.keys() >= {"prompt", "messages"} and _stands_in(there["prompt"], there["messages"]):
        there = {name: one for name, one in there.items() if name != "prompt"}  # said once more
    kind = _own_kind(there)
    return _foreign(there, where, fields) if kind is None else _own(kind, there, where, kind)


def _stands_in(prompt: Any, messages: Any) -> bool:
    """Whether a prompt is what the first user among messages says."""
    given = cast("list[Any]", messages) if isinstance(messages, list) else []
    said = [one.get("content") for one in given if isinstance(one, dict) and one.get("role") == "user"]
    return isinstance(prompt, str) and said[:1] == [prompt]


def _pair_of(there: Fields) -> tuple[tuple[str, str], str] | None:
    """The names of prompt and completion in a form of others."""
    marks = MARKS.intersection(there) - {"text"}
    for names, answers in sorted(_PAIRS.items(), key=lambda pair: pair[0][1] not in there):
        needs_both = names[0] in {"context", "definition"}
        given = [answer for answer in answers if answer in there]
        if names[0] in there and (not needs_both or names[1] in there) and given and marks <= {names[0]}:
            return names, given[0]
    return None


def as_prompt(fields: Fields, where: str) -> Fields:
    """The same with `prompt` or `messages`, where it has them under other names; what answers them is not looked at."""
    there = without_nulls(fields)
    if isinstance(there.get("prompt"), list) and "messages" not in there:
        return {**{name: one for name, one in there.items() if name != "prompt"}, "messages": there["prompt"]}
    if not {"prompt", "messages"}.isdisjoint(there):
        return {**there, **messages_of(there, where)} if "messages" in there else there
    if name := next((name for name in DIALOGUES if name in there), None):
        return {**there, "messages": dialogue(there, name, where)[0]}
    for first, second in _PAIRS:
        if first in there and _changing(there, {first, second}) == []:
            asked = _joined(there, first, second, where)
            if (before := _before(there, where)) is not None:
                return {**there, "messages": [*before, {"role": "user", "content": asked}]}
            return {**there, "prompt": asked}
    return there


def renamed(fields: Fields, columns: Mapping[str, str] | None, names: Collection[str]) -> tuple[Fields, list[str]]:
    """The same with fields under those of our `names` that `columns` give them; and the columns that are not there.

    What has our name already gives way to the column that is named. A column that a record lacks changes nothing: a
    model remembers the columns of its training, and another file may have another form.
    """
    asked = {name: column for name, column in (columns or {}).items() if name in names and column != name}
    there = {name: column for name, column in asked.items() if column in fields}
    taken = {*there, *there.values(), *(name for name, column in asked.items() if not column)}
    rest = {name: value for name, value in fields.items() if name not in taken}
    missing = [column for name, column in asked.items() if column and name not in there]
    return rest | {name: fields[column] for name, column in there.items()}, missing


def _own_kind(there: Fields) -> str | None:
    found = MARKS.intersection(there)
    return next((kind for kind, wanted in OWN.items() if wanted == found), None)


def _chosen(fields: Fields, renamed: Fields, where: str, columns: Mapping[str, str]) -> Shaped:
    """The record of the fields that are asked for, and nothing else but what may stand beside, which is renamed."""
    beside = {name: renamed[name] for name in (*BESIDE, *_OF_DIALOGUES) if name in renamed}
    columns = _completed(columns, without_nulls(fields))
    there = without_nulls(beside | {name: fields[column] for name, column in columns.items()})
    if (kind := _own_kind(there)) is None:
        raise _half_named(fields, where, columns) or DataError(f"{where}: {_lacking(there, fields)}", allowed=FORMATS)
    others = [name for name in _ORDER if name in OWN[kind] and columns.get(name, name) != name]
    told = ", ".join(f"{name} from {columns[name]!r}" for name in others)
    one = _own(kind, there, where, f"{kind}: {told}" if told else kind)
    unread = [name for name in without_nulls(fields) if name not in beside]
    return Shaped(one.kind, one.fields, one.told, (*one.unread, *unread))


def _completed(columns: Mapping[str, str], there: Fields) -> Mapping[str, str]:
    """The same with the other half of a record that `columns` name one half of, where it has our name."""
    if columns.keys() in OWN.values():
        return columns
    whole = [wanted for wanted in OWN.values() if columns.keys() < wanted and wanted - columns.keys() <= there.keys()]
    rest = whole[0] - columns.keys() if len(whole) == 1 else frozenset[str]()
    return {**columns, **{name: name for name in rest if name not in columns.values()}}


def _half_named(fields: Fields, where: str, columns: Mapping[str, str]) -> DataError | None:
    """The error where `columns` name half a record, and nothing has the name of the other half."""
    lacking = next((sorted(wanted - columns.keys()) for wanted in OWN.values() if columns.keys() < wanted), [])
    if not lacking:
        return None
    others = [name for name in without_nulls(fields) if name not in {*columns.values(), *BESIDE}]
    given = " and ".join(f"data.columns.{name}={column}" for name, column in columns.items())
    what = f"{where}: {given}, and no field {lacking[0]!r} beside; others are {', '.join(map(repr, others)) or 'none'}"
    cure = " or ".join(f"{given} data.columns.{lacking[0]}={quote(name)}" for name in others[:3])
    return DataError(what, allowed=FORMATS, cure=cure)


def _own(kind: str, there: dict[str, Any], where: str, told: str) -> Shaped:
    used = OWN[kind] | BESIDE
    if kind == "messages":
        there, used = {**there, **messages_of(there, where)}, used | _OF_DIALOGUES
    elif kind == "prompt and completion" and _are_messages(there["prompt"], there["completion"]):
        there = {**there, **{name: rows_of(there[name], where) for name in OWN[kind]}}
        kind, told, used = "messages", f"{told}, lists of messages: the completion is learned", used | _OF_DIALOGUES
        there = {**there, "messages": of_two_lists(there, where)} | tools_of(there, where)
    return Shaped(kind, there, told, tuple(name for name in there if name not in used | {"messages"}))


def _are_messages(prompt: Any, completion: Any) -> bool:
    return isinstance(prompt, list) or isinstance(completion, list) or are_told(prompt, completion)


def _foreign(there: dict[str, Any], where: str, fields: Fields) -> Shaped:
    marks = MARKS.intersection(there)
    if not marks and (name := next((name for name in DIALOGUES if name in there), None)):
        messages, told = dialogue(there, name, where)
        return _made("messages", there, {"messages": messages} | tools_of(there, where), told, {name, *SYSTEMS})
    if "text" not in marks and (pair := _pair_of(there)):
        return _pair(there, *pair, where)
    raise DataError(f"{where}: {_lacking(there, fields)}", allowed=FORMATS, cure=_cure(there))


def _lacking(there: Fields, fields: Fields) -> str:
    found = MARKS.intersection(there)
    keys = ", ".join(map(repr, fields)) or "none"
    null = [key for key in fields if key not in there and (key in MARKS or key in _FOREIGN)]
    if not found:
        return f"the {null[0]} is null" if null else f"a record without a text; its keys: {keys}"
    halves = [name for name, wanted in OWN.items() if found < wanted and name != "text and label"]
    if halves and null:
        return f"half a record of {halves[0]}: the {null[0]} is null"
    return f"{f'half a record of {halves[0]}' if halves else 'a mixture of formats in one record'}; its keys: {keys}"


def _cure(there: Fields) -> str:
    """What to type so that one of several forms is read, or a text under another name."""
    found = MARKS.intersection(there)
    whole = [wanted for wanted in OWN.values() if wanted <= found]
    if whole:
        best = next((wanted for wanted in whole if "messages" in wanted), whole[0])
        return " ".join(f"data.columns.{name}={name}" for name in sorted(best)) + ", to read nothing else"
    texts = [name for name, value in there.items() if isinstance(value, str) and name not in BESIDE]
    unread = [name for name, value in there.items() if value is UNREAD and name not in BESIDE]
    if unread and not texts and not found:  # of a table only the columns are read that may be meant
        return f"data.columns.text={unread[-1]}, or whichever of {', '.join(unread)} is the text"
    if not texts or found:
        return ""
    return f"data.columns.text={max(texts, key=lambda name: len(there[name]))}, if that is the text"


def _pair(there: dict[str, Any], names: tuple[str, str], answer: str, where: str) -> Shaped:
    first, second = names
    others = [name for name in _PAIRS[names] if name != answer and name in there]
    if changing := [*others, *_changing(there, {first, second, answer})]:
        cure = f"data.columns.prompt={first} data.columns.completion={answer}, to read them alone"
        what = f"{where}: {first} and {answer} beside {changing[0]!r}, which may belong to the prompt"
        raise DataError(what, allowed=FORMATS, cure=cure)
    asked, said = _joined(there, first, second, where), _answer(there, answer, where)
    is_joined = bool(second and there.get(second))
    told = f"{f'{first}, {second}' if is_joined else first} and {answer}"
    told += f": the prompt is {first}{f', a blank line, {second}' if is_joined else ''}"
    used = {first, second, answer}
    if (before := _before(there, where)) is None:
        return _made("prompt and completion", there, {"prompt": asked, "completion": said}, told, used)
    last = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    told += ", in a dialogue behind the system and the history"
    made = {"messages": [*before, *last]} | tools_of(there, where)
    return _made("messages", there, made, told, used | {*SYSTEMS, HISTORY})


def _before(there: Fields, where: str) -> list[Any] | None:
    """What a dialogue has before a prompt; None: there is no system and no history, and it is none."""
    if not any(name in there for name in (*SYSTEMS, HISTORY)):
        return None
    return [*system_of(there, where), *earlier_turns(there, where)]


def _answer(there: Fields, name: str, where: str) -> Any:
    """The completion; of several answers as SQuAD has them, the first."""
    given = there[name]
    if name != "answers":
        return given
    texts: Any = given.get("text") if isinstance(given, dict) else given
    if not isinstance(texts, list) or not texts:
        raise DataError(f"{where}: no answer", allowed='"answers": {"text": ["..."]}')
    return texts[0]


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
