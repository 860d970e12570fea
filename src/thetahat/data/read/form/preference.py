r"""Two answers to one prompt, of which somebody chose one: that one may be learned, the other is not read.

{"prompt": "...", "chosen": "...", "rejected": "..."}                    a prompt and a completion
{"prompt": [{"role": "user", ...}], "chosen": [...], "rejected": [...]}  a dialogue (TRL)
{"chosen": [...], "rejected": [...]}                                     dialogues, prompts included
{"chosen": "\n\nHuman: ...\n\nAssistant: ...", "rejected": ...}      the same as text (HH-RLHF)
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from thetahat.core.errors import DataError
from thetahat.data.config import Preference
from thetahat.data.read.form.turns import DIALOGUES, are_told, dialogue, messages_of, rows_of, system_of
from thetahat.data.read.strict_json import kind_of_value

ASKED = ("prompt", "question", "instruction", "input")
TOLD = "a preference: the chosen answer is learned, the rejected one is not read"
_SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}
Fields = Mapping[str, Any]


def chosen_of(there: Fields, where: str, preference: Preference | None) -> tuple[dict[str, Any], str]:
    """The chosen answer as the completion of its prompt, or as the end of a dialogue; and how that was read."""
    if preference is None:
        cure = "data.preference=chosen, to learn what was chosen; what was rejected is not read"
        raise DataError(f"{where}: a preference", cure=cure)
    before, chosen = _before(there, where), _said(there["chosen"], where, "chosen")
    if isinstance(chosen, list) and are_told(before):
        before = _before({**there, "prompt": rows_of(before, where)}, where)
    if isinstance(before, str) and isinstance(chosen, str):
        system = system_of(there, where)
        if not system:
            return {"prompt": before, "completion": chosen}, TOLD
        before = [*system, _user(before)]
    elif isinstance(before, str):
        before = [*system_of(there, where), *([] if _is_dialogue(chosen) else [_user(before)])]
    if isinstance(chosen, str):
        if before is None:
            raise DataError(
                f"{where}: a chosen text without a prompt", allowed="a prompt beside it, or lists of messages"
            )
        chosen = [{"role": "assistant", "content": chosen}]
    before = before or []
    if before and chosen[: len(before)] == before:
        before = []  # the chosen dialogue has it
    rejected = _said(there["rejected"], where, "rejected") if not before else None
    return {"messages": [*_context(before), *_learned(chosen, rejected)]}, TOLD


def _before(there: Fields, where: str) -> str | list[Any] | None:
    """What is answered: a text, messages, or nothing where the answers have it."""
    if name := next((name for name in DIALOGUES if name in there), None):
        return dialogue(there, name, where)[0]
    asked = there.get("prompt", there.get("question"))
    if asked is None and isinstance(asked := there.get("instruction"), str):
        more = there.get("input")
        return f"{asked}\n\n{more}" if isinstance(more, str) and more else asked
    if asked is None or isinstance(asked, str):
        return asked
    return cast("list[Any]", messages_of({"messages": asked}, where)["messages"])


def _said(given: Any, where: str, name: str) -> str | list[Any]:
    """A text, or messages."""
    if isinstance(given, str) and _SPEAKER.match(given):
        _, *pieces = _SPEAKER.split(given)
        pairs = zip(pieces[::2], pieces[1::2], strict=True)
        return [{"role": _ROLES[speaker], "content": text.strip()} for speaker, text in pairs]
    given = rows_of(given, f"{where}: {name}")
    if isinstance(given, dict):
        given = [given]
    if isinstance(given, list):
        given = messages_of({"messages": given}, where)["messages"]
    if not isinstance(given, str | list):
        raise DataError(f"{where}: {name} is {kind_of_value(given)}", allowed="a text, or a list of messages")
    return cast("str | list[Any]", given)


def _is_dialogue(messages: str | list[Any]) -> bool:
    return any(isinstance(one, dict) and one.get("role") == "user" for one in messages)


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _context(messages: list[Any]) -> list[Any]:
    """The messages, of which none is learned."""
    return [
        {**one, "weight": 0}
        if isinstance(one, dict) and one.get("role") == "assistant" and "weight" not in one
        else one
        for one in messages
    ]


def _learned(chosen: list[Any], rejected: str | list[Any] | None) -> list[Any]:
    """The chosen messages; what the rejected ones begin with, too, is their prompt."""
    pairs = zip(chosen, rejected if isinstance(rejected, list) else [], strict=False)
    shared = next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    if shared is None:  # one is how the other begins: the last answer is what was chosen
        shared = len(chosen) - 1 if isinstance(rejected, list) else 0
    return [*_context(chosen[:shared]), *chosen[shared:]]
