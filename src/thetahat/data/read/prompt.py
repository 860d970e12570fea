"""What a text is to be written after, as it lies in the lines of a file.

    {"prompt": "Good morning"}
    {"messages": [{"role": "user", "content": "Hello"}]}

A line of a .txt is a prompt, too.
A record in a form of others is read likewise, see shape.py. What else stands in a line is kept. So records of a
training or test set are prompts, too: a `completion`, `answers` and a last message of the assistant are what others
have answered, and are not read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from logging import INFO
from typing import Any, cast

from thetahat.core.errors import DataError
from thetahat.data.config import OnBadRecord
from thetahat.data.read.bad import BadRecords, tell_skipped
from thetahat.data.read.dialogue import Dialogue, parse_dialogue
from thetahat.data.read.files import find_files, say_once
from thetahat.data.read.form.shape import as_prompt, renamed
from thetahat.data.read.named.kind import holds_objects
from thetahat.data.read.objects import read_objects
from thetahat.data.read.record import check_text
from thetahat.data.read.table.rows import UNREAD

GENERATED = "generated"  # the key of what is written, and those of what is said about it:
ENDED, STOP_TEXT, PROMPT_CUT = "ended", "stop_text", "prompt_tokens_cut"
_NAMES = ("prompt", "messages", "tools")
_FORMATS = (
    '{"prompt": ...} or {"messages": [...]}, each on one line; completions, id and other keys may stand beside; or a '
    ".txt with a prompt on each line"
)


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """One line."""

    fields: Mapping[str, Any]  # all of it
    where: str  # file and line, for errors about what it says
    text: str = ""
    dialogue: Dialogue | None = None  # with a last message that stands for the answer


def read_prompts(
    specs: str | Sequence[str], on_bad: OnBadRecord = "error", columns: Mapping[str, str] | None = None
) -> list[PromptRecord]:
    """Every prompt and dialogue of files, folders or globs, in order; of a .txt every line that is not blank.

    `columns` say under which names `prompt`, `messages` and `tools` stand.
    """
    records: list[PromptRecord] = []
    bad = BadRecords(on_bad)
    files = find_files(specs)
    for path in files:
        is_plain = not holds_objects(path)
        if is_plain:
            say_once(f"{path}: each line is a prompt", INFO)
        for number, fields in read_objects(path, "\n" if is_plain else None, formats=_FORMATS, on_error=bad):
            if is_plain:
                if not (line := fields["text"].removesuffix("\r")).strip():
                    continue
                fields = {"prompt": line}
            if unread := sorted(name for name, value in fields.items() if value is UNREAD):
                say_once(f"{path}: columns that JSON cannot hold are not kept: {', '.join(unread)}")
                fields = {name: value for name, value in fields.items() if value is not UNREAD}
            try:
                records.append(parse_prompt(fields, f"{path}:{number}", columns))
            except DataError as error:
                bad(error)
    bad.settle()
    tell_skipped(*bad.lines)
    if not records:
        raise DataError(f"{', '.join(map(str, files))}: no prompt", allowed=_FORMATS)
    return records


def parse_prompt(fields: Mapping[str, Any], where: str, columns: Mapping[str, str] | None = None) -> PromptRecord:
    """The prompt or the dialogue that a JSON object holds; errors name `where`."""
    named, missing = renamed(fields, columns, _NAMES)
    if missing:
        say_once(f"records without {', '.join(map(repr, missing))}, which data.columns names, are read as they are")
    chosen = [name for name in ("prompt", "messages") if (columns or {}).get(name) in fields]
    if len(chosen) == 1:  # what data.columns names is all that is asked
        named = {name: one for name, one in named.items() if name in chosen or name not in ("prompt", "messages")}
    asked = as_prompt(named, where)
    found = [key for key in ("prompt", "messages") if asked.get(key) is not None]
    if len(found) != 1:
        what = "a prompt and messages in one record" if found else "a record without a prompt or messages"
        raise DataError(f"{where}: {what}; its keys: {', '.join(map(repr, fields)) or 'none'}", allowed=_FORMATS)
    if taken := [repr(key) for key in (GENERATED, ENDED, STOP_TEXT, PROMPT_CUT) if key in fields]:
        raise DataError(f"{where}: it has {taken[0]}, the key of what is written", cure="rename or remove it")
    if found == ["messages"]:
        return PromptRecord(fields, where, dialogue=unanswered(asked, where))
    if asked["prompt"] == "":
        raise DataError(f"{where}: the prompt is empty", cure="remove it; thetahat generate MODEL needs no prompt")
    return PromptRecord(fields, where, check_text(asked["prompt"], where, "prompt"))


def is_answered(fields: Mapping[str, Any]) -> bool:
    """Whether a record holds, beside the prompt, what somebody has answered."""
    given: Any = fields.get("messages") or [{}]
    last = given[-1]
    return isinstance(fields.get("completion"), str) or (isinstance(last, dict) and last.get("role") == "assistant")


def unanswered(fields: Mapping[str, Any], where: str) -> Dialogue:
    """The dialogue of a record up to the answer that is to be written, in whose place its last message stands.

    What the record says there itself is left out. Nothing but that message has a weight.
    """
    given = fields.get("messages")
    if isinstance(given, list):
        given = [_as_context(message) for message in cast("list[Any]", given)]
        if given and isinstance(given[-1], dict) and given[-1].get("role") == "assistant":
            given.pop()
        if not given:
            raise DataError(f"{where}: no message that is to be answered", allowed="one or more before the answer")
        given.append({"role": "assistant", "content": "x"})
    dialogue = parse_dialogue({"messages": given, "tools": fields.get("tools")}, where)
    *before, last = dialogue.messages
    return replace(dialogue, messages=(*(replace(message, weight=0.0) for message in before), last))


def _as_context(message: Any) -> Any:
    """A message with weight 0 where it tells none: an empty one may be read, too."""
    if not isinstance(message, dict) or cast("dict[str, Any]", message).get("weight") is not None:
        return message
    return {**cast("dict[str, Any]", message), "weight": 0}
