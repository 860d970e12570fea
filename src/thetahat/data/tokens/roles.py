"""What the special tokens of a tokenizer are for, and the frame that follows from it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

import msgspec
import tokenizers

from thetahat.core.config import Config, from_toml
from thetahat.core.errors import ModelError
from thetahat.core.special import MASK, SENTINEL, Frame, Frames

END_OF_TEXT = "<|endoftext|>"
ROLES = "roles.toml"
"""What a checkpoint holds beside tokenizer.json, where that alone does not tell the roles."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "eos": (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>"),
    "mask": (MASK, "[MASK]", "<mask>"),
}
"""The names by which a role is known where nothing says which token has it."""

_SENTINELS = ("<extra_id_{}>", "▁<extra_id_{}>")  # T5's; of mT5 they are pieces
_PROBE = "a"


_SINGLE = ("bos", "unk", "pad", "sep", "cls", "mask")


@final
class Roles(Config, kw_only=True):
    """The ids of the special tokens that have a task; None where a tokenizer has no such token."""

    bos: int | None = None  # begins a text
    eos: tuple[int, ...] = ()  # the first ends a text; each of them ends what is generated
    unk: int | None = None  # stands for text that the vocabulary lacks
    pad: int | None = None
    sep: int | None = None
    cls: int | None = None
    mask: int | None = None  # read in place of a target
    start: int | None = None  # what a decoder starts from that an encoder has read for

    def over(self, others: "Roles") -> "Roles":
        """These roles, and of the others those that these leave open."""
        own = {name: value for name, value in msgspec.structs.asdict(self).items() if value not in (None, ())}
        return msgspec.structs.replace(others, **own)

    def beyond(self, size: int) -> dict[str, int]:
        """The roles whose id a vocabulary of this size lacks."""
        ids = {f"{role}_token_id": getattr(self, role) for role in (*_SINGLE, "start")}
        ids |= {"eos_token_id": next((id for id in self.eos if id >= size), None)}
        return {name: id for name, id in ids.items() if id is not None and id >= size}

    def among(self, size: int) -> "Roles":
        """These roles without ids that a vocabulary of this size lacks."""
        single = {role: id for role in (*_SINGLE, "start") if (id := getattr(self, role)) is not None and id < size}
        return Roles(eos=tuple(id for id in self.eos if id < size), **single)


NO_ROLES = Roles()


@final
class Vocabulary:
    """The pieces of a tokenizer of the library: their ids, and which are special."""

    def __init__(self, inner: tokenizers.Tokenizer, description: Mapping[str, Any]) -> None:
        self.ids: dict[str, int] = inner.get_vocab(with_added_tokens=True)
        self.size = max(self.ids.values(), default=-1) + 1
        self.added = inner.get_added_tokens_decoder()
        self.special = {token.content: id for id, token in self.added.items() if token.special}
        self.description = description

    def first(self, names: Iterable[str]) -> int | None:
        """The id of the first of these names that is special."""
        return next((self.special[name] for name in names if name in self.special), None)

    @property
    def unknown(self) -> int | None:
        """What the model itself gives for what it lacks."""
        model = self.description.get("model") or {}
        name = model.get("unk_token")
        return model.get("unk_id") if name is None else self.ids.get(name)

    def sentinels(self) -> list[int]:
        """What stands for the first, second, ... span that is left out, under the names of T5."""
        for form in _SENTINELS:
            found: list[int] = []
            while (name := form.format(len(found))) in self.ids:
                found.append(self.ids[name])
            if found:
                return found
        return []

    def aliases(self, roles: Roles) -> dict[str, int]:
        """The names by which factorizations ask for special tokens, where the tokenizer calls these otherwise."""
        named = {SENTINEL.format(number): id for number, id in enumerate(self.sentinels())}
        return named if roles.mask is None else {MASK: roles.mask, **named}


def known_roles(vocabulary: Vocabulary, added: Frame, told: Roles) -> Roles:
    """The roles as they are told, and what the tokenizer itself says of the others."""
    named = vocabulary.first(NAMES["eos"])
    eos = added.after[:1] or (() if named is None else (named,))
    return told.over(Roles(eos=eos, unk=vocabulary.unknown, mask=vocabulary.first(NAMES["mask"])))


def added_by(inner: tokenizers.Tokenizer) -> Frame:
    """What the tokenizer's own post-processor puts around a text."""
    plain = inner.encode(_PROBE, add_special_tokens=False).ids
    framed = inner.encode(_PROBE, add_special_tokens=True).ids
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return Frame(tuple(framed[:start]), tuple(framed[start + len(plain) :]))
    raise ModelError(f"its post-processor makes {framed} of a text of {plain}", allowed="tokens around a text")


def frames_of(added: Frame, roles: Roles) -> Frames:
    """The frames of a tokenizer: what its post-processor adds, and where that is nothing what its roles say.

    A text begins with bos, or, where there is none, as the next one behind the end of another; it ends with the first
    eos. A decoder that reads a source starts from `start`, if there is one, as a text begins otherwise.
    """
    bos = () if roles.bos is None else (roles.bos,)
    text = Frame(added.before or bos or roles.eos[:1], added.after or roles.eos[:1])
    source = added if added.before or added.after else Frame(text.before)
    begins = text.before if roles.start is None else (roles.start, *added.before)
    if added.before[:1] == (roles.start,):
        begins = added.before
    return Frames(text, source, Frame(begins, text.after))


def read_roles(folder: Path, vocabulary: Vocabulary) -> Roles:
    """What the files beside a tokenizer.json say: roles.toml, or those that come with a model.

    These are tokenizer_config.json, special_tokens_map.json and generation_config.json.
    """
    if (path := folder / ROLES).is_file():
        return from_toml(path.read_text(encoding="utf-8"), Roles, name=str(path))
    names = {**_object(folder / "special_tokens_map.json"), **_object(folder / "tokenizer_config.json")}
    generation = _object(folder / "generation_config.json")
    found = {role: vocabulary.ids.get(_content(names.get(f"{role}_token"))) for role in _SINGLE}
    eos = vocabulary.ids.get(_content(names.get("eos_token")))
    ends = generation.get("eos_token_id")
    listed = [eos, *(ends if isinstance(ends, list) else [ends])]
    known = tuple(dict.fromkeys(id for id in listed if isinstance(id, int)))
    start = generation.get("decoder_start_token_id")
    return Roles(eos=known, start=start if isinstance(start, int) else None, **found)


def _object(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", cure="bring the file back, or remove it") from error
    return found if isinstance(found, dict) else {}


def _content(token: Any) -> str:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""
