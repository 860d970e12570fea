"""What the pieces of a vocabulary spell, and how a tokenizer begins a text, read from its description."""

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from thetahat.data.tokens.roles import Vocabulary

Json = Any
# The byte alphabet writes a byte as its Latin-1 character where that is printable, and the others from U+0100 on.
_UNPRINTABLE = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
_FROM_ALPHABET = {0x100 + place: byte for place, byte in enumerate(_UNPRINTABLE)}
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BLANKS = " \n\t\r"


class Spelling(NamedTuple):
    """How a kind of tokenizer writes the text of a piece."""

    of_bytes: bool = False  # a character of a piece is a byte
    of_words: bool = False  # a piece begins a word, unless a mark says that it goes on with one
    mark: str = ""
    end: str = ""  # behind pieces that end a word
    blank: str = "\u2581"  # what a blank is written as
    has_bytes: bool = False  # <0x0A> is the byte 10

    def bytes_of(self, piece: str) -> bytes:
        """The bytes of text that a piece stands for."""
        if self.of_bytes:
            return piece.translate(_FROM_ALPHABET).encode("latin-1", "replace")
        if self.has_bytes and (byte := _BYTE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        if self.of_words:
            piece = piece.removeprefix(self.mark) if self._goes_on(piece) else f" {piece}"
        if self.end and piece.endswith(self.end):
            piece = f"{piece.removesuffix(self.end)} "
        return piece.replace(self.blank, " ").encode()

    def _goes_on(self, piece: str) -> bool:
        return bool(self.mark) and piece.startswith(self.mark)

    def begins_word(self, piece: str) -> bool:
        """Whether a word begins with it: with a blank, or with no letter."""
        if self.of_words and self.mark:
            return not self._goes_on(piece)
        text = self.bytes_of(piece)[:1].decode("latin-1")
        return text in _BLANKS or not any(letter.isalnum() for letter in piece)


def spelling_of(description: Mapping[str, Json]) -> Spelling:
    """How the pieces of a tokenizer.json are written."""
    model = description.get("model") or {}
    if any(parts_of(description, "ByteLevel", ("normalizer", "pre_tokenizer"))):
        return Spelling(of_bytes=True)
    mark = model.get("continuing_subword_prefix") or ""
    blanks = [part["replacement"] for part in parts_of(description, "Metaspace", ("pre_tokenizer", "decoder"))]
    return Spelling(
        of_words=bool(mark) or model.get("type") in ("WordPiece", "WordLevel"),
        mark=mark,
        end=model.get("end_of_word_suffix") or "",
        blank=blanks[0] if blanks else "\u2581",
        has_bytes=bool(model.get("byte_fallback")),
    )


def spelled(vocabulary: Vocabulary, spelling: Spelling, silent: Sequence[int]) -> list[bytes]:
    """The bytes of text behind each id; none where it is special, or no token has it."""
    found = [b""] * vocabulary.size
    for piece, id in vocabulary.ids.items():
        found[id] = spelling.bytes_of(piece)
    for id, token in vocabulary.added.items():
        found[id] = token.content.encode()
    for id in silent:
        found[id] = b""
    return found


def parts_of(description: Mapping[str, Json], kind: str, where: Sequence[str]) -> Iterator[dict[str, Json]]:
    """The parts of a tokenizer.json of this type, those of sequences too."""
    waiting = [description.get(name) for name in where]
    while waiting:
        part = waiting.pop(0)
        if isinstance(part, dict):
            if part.get("type") == kind:
                yield part
            below = (part.get(name, ()) for name in ("normalizers", "pretokenizers", "decoders"))
            waiting = [*itertools.chain(*below), *waiting]


def begins_apart(description: Mapping[str, Json]) -> bool:
    """Whether the first word of a whole text is written otherwise than one behind a special token."""
    return any(part.get("prepend_scheme") == "first" for part in parts_of(description, "Metaspace", ("pre_tokenizer",)))


def without_prefix(description: Mapping[str, Json]) -> dict[str, Json] | None:
    """The same tokenizer for what goes on with a text: nothing is put in front of it; None where nothing ever is."""
    changed = copy.deepcopy({name: description[name] for name in ("normalizer", "pre_tokenizer")})
    for part in parts_of(changed, "Metaspace", ("pre_tokenizer",)):
        part["prepend_scheme"] = "never"
        part.pop("add_prefix_space", None)
    for part in parts_of(changed, "ByteLevel", ("normalizer", "pre_tokenizer")):
        part |= {"add_prefix_space": False} if "add_prefix_space" in part else {}
    changed["normalizer"] = _without_prepend(changed["normalizer"])
    return None if all(changed[name] == description[name] for name in changed) else {**description, **changed}


def _without_prepend(part: Json) -> Json:
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend":
        return None
    if "normalizers" in part:
        kept = [_without_prepend(one) for one in part["normalizers"]]
        return {**part, "normalizers": [one for one in kept if one is not None]}
    return part
