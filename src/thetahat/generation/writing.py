"""A text while it is written: decodes tokens to characters and finds the end of the text."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

Ended = Literal["end", "stop", "length", "context"]
"""Why a text ended.

- end: the model ended it, by a token or a text that ends a document or a turn.
- stop: a stop text came.
- length: it has as many tokens as it may have.
- context: the model reads no more tokens at once.
"""


@dataclass(frozen=True, slots=True)
class Ends:
    """The conditions under which a text ends."""

    tokens: frozenset[int] = frozenset()  # that end a document or a turn; not part of the text
    texts: tuple[str, ...] = ()  # that end a turn, where the template has no token for it
    stop: tuple[str, ...] = ()  # stop texts of the user
    max_tokens: int = 256
    room: int | None = None  # tokens that the context has room for; None: the context slides along

    @property
    def limit(self) -> int:
        """The most tokens that a text may have."""
        return self.max_tokens if self.room is None else min(self.max_tokens, self.room)


@final
class Writing:
    """The tokens of one text, and its characters as soon as they are certain.

    Bytes are held back until they form a character or cannot become one; then they are U+FFFD, as they are when all
    tokens are decoded at once. Characters are held back while they may be the beginning of a stop text. A text ends at
    the first place where a stop text is complete, before the longest one that is complete there, so the result does
    not depend on where tokens begin and end. A `prefix`, which the tokenizer puts before the first word, is not part of
    the text.
    """

    def __init__(self, ends: Ends, token_bytes: Sequence[bytes], prefix: bytes = b"") -> None:
        self.tokens: list[int] = []  # all that were added, without one that ends a document or a turn
        self.ended: Ended | None = None
        self.stop_text = ""  # the stop text that came
        self.ends = ends
        self._prefix = prefix
        self._token_bytes = token_bytes
        self._certain: list[str] = []
        self._num_taken = 0  # pieces of `_certain`
        self._bytes = b""  # the beginning of a character
        self._held = ""  # the beginning of a stop text

    @property
    def num_tokens(self) -> int:
        """How many tokens there are to write; a model may have rows beyond, of no token, which are never chosen."""
        return len(self._token_bytes)

    @property
    def text(self) -> str:
        """All characters that are certain."""
        return "".join(self._certain)

    def add(self, token: int) -> None:
        """Adds a token."""
        assert self.ended is None
        ends = self.ends
        if token in ends.tokens:
            return self._end("end")
        self.tokens.append(token)
        found = self._bytes + self._token_bytes[token]
        if found and self._prefix:
            found, self._prefix = found.removeprefix(self._prefix), b""
        characters, num_whole = codecs.utf_8_decode(found, "replace", False)
        self._bytes = found[num_whole:]
        self._read(characters)
        if self.ended is None and len(self.tokens) >= ends.limit:
            self._end("context" if ends.limit < ends.max_tokens else "length")
        return None

    def take(self) -> str:
        """The characters that have become certain since the last call."""
        taken = "".join(self._certain[self._num_taken :])
        self._num_taken = len(self._certain)
        return taken

    def copy(self) -> "Writing":
        """A copy, which can be continued in another way."""
        other = Writing(self.ends, self._token_bytes, self._prefix)
        other.tokens, other.ended, other.stop_text = [*self.tokens], self.ended, self.stop_text
        other._certain, other._num_taken = [*self._certain], self._num_taken
        other._bytes, other._held = self._bytes, self._held
        return other

    def _end(self, why: Ended) -> None:
        """Ends the text: bytes that were held back are decoded, and may still complete a stop text."""
        self._read(self._bytes.decode("utf-8", "replace"))
        if self.ended is None:
            self.ended = why
            self._certain.append(self._held)

    def _read(self, characters: str) -> None:
        """Adds characters, up to the first stop text."""
        text = self._held + characters
        stops = (*self.ends.stop, *self.ends.texts)
        found = [(place + len(stop), place, stop) for stop in stops if (place := text.find(stop)) >= 0]
        if found:
            _, place, stop = min(found)
            self._certain.append(text[:place])
            self.ended = "stop" if stop in self.ends.stop else "end"
            self.stop_text = stop if self.ended == "stop" else ""
            return
        held = max((_num_begun(text, stop) for stop in stops), default=0)
        self._certain.append(text[: len(text) - held])
        self._held = text[len(text) - held :]


def _num_begun(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop text."""
    most = min(len(text), len(stop) - 1)
    return next((number for number in range(most, 0, -1) if text.endswith(stop[:number])), 0)
