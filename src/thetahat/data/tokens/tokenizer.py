"""Text to token ids and back, with the number of bytes that stand behind each token."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import Any, final

import numpy as np
import tokenizers
from numpy.typing import NDArray

from thetahat.core.config import to_toml
from thetahat.core.errors import ConfigError, ModelError
from thetahat.core.special import Frames
from thetahat.data.tokens.bpe import ALPHABET, train_bpe
from thetahat.data.tokens.pieces import begins_apart, spelled, spelling_of, without_prefix
from thetahat.data.tokens.rendered import Piece, Said, Text, divide, special_names
from thetahat.data.tokens.roles import (
    END_OF_TEXT,
    NAMES,
    NO_ROLES,
    ROLES,
    Roles,
    Vocabulary,
    added_by,
    frames_of,
    known_roles,
    read_roles,
)
from thetahat.data.tokens.sizes import Tokens, by_ends, by_table, joined

TOKENIZER = "tokenizer.json"
logger = getLogger("thetahat")
_ONE = "a"  # a text, to see what stands before the first word of one


@final
class Tokenizer:
    """A map between Unicode text and ids, which are those of the `tokenizers` library.

    The name of a special token in a text is text: only a template writes special tokens. Where the ids do not tell the
    text, as after lower-casing, each text says so, and its bytes are still shared out among its tokens.
    """

    def __init__(self, inner: tokenizers.Tokenizer, told: Roles = NO_ROLES, beside: Path | None = None) -> None:
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # a literal <|endoftext|> in a text is text
        self._inner = inner
        self._json: str = inner.to_str(pretty=True)
        description = json.loads(self._json)
        vocabulary = Vocabulary(inner, description)
        self._added = added_by(inner)
        told = told.over(read_roles(beside, vocabulary)) if beside else told
        if beyond := told.beyond(vocabulary.size):  # what a config says by default, of another vocabulary
            said = ", ".join(f"{name}={id}" for name, id in beyond.items())
            logger.warning("the tokenizer has %s ids, so %s is passed over", f"{vocabulary.size:,}", said)
            told = told.among(vocabulary.size)
        self.roles: Roles = known_roles(vocabulary, self._added, told)
        self._is_told = self.roles != known_roles(vocabulary, self._added, NO_ROLES)
        self.frames: Frames = frames_of(self._added, self.roles)
        self.vocab_size: int = vocabulary.size
        self.special: dict[str, int] = _special(vocabulary, self.roles)
        self._named = {**vocabulary.aliases(self.roles), **self.special}
        self._spelling = spelling_of(description)
        self.token_bytes: list[bytes] = spelled(vocabulary, self._spelling, [*self._named.values()])
        self.num_bytes: NDArray[np.int64] = np.array([len(piece) for piece in self.token_bytes], np.int64)
        self._going_on = _library(without_prefix(description)) or inner
        self._begins_apart = begins_apart(description)
        first = inner.encode(_ONE, add_special_tokens=False).ids[:1]
        self.prefix: bytes = b" " * any(self.token_bytes[id].startswith(b" ") for id in first)
        self.digest: str = hashlib.sha256((self._json + self._roles_text).encode()).hexdigest()

    @property
    def ends(self) -> frozenset[int]:
        """What ends a text that is generated."""
        return frozenset({*self.roles.eos, *self.frames.text.after[:1]})

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without anything in front or behind."""
        return [encoding.ids for encoding in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def tokens(self, texts: Sequence[str], *, goes_on: bool = False) -> list[Tokens]:
        """The same with the bytes of each token; where it `goes_on`, a text is read behind another."""
        inner, prefix = (self._going_on, b"") if goes_on else (self._inner, self.prefix)
        if self._spelling.of_words:  # which do not say what stands between them
            encodings = inner.encode_batch(list(texts), add_special_tokens=False)
            return [_by_ends(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]
        encodings = inner.encode_batch_fast(list(texts), add_special_tokens=False)
        pairs = zip(texts, encodings, strict=True)
        found = [by_table(text, encoding.ids, self.token_bytes, prefix) for text, encoding in pairs]
        unlike = [text for text, one in zip(texts, found, strict=True) if one is None]
        again = iter(inner.encode_batch(unlike, add_special_tokens=False) if unlike else ())
        return [one or _by_ends(text, next(again)) for text, one in zip(texts, found, strict=True)]

    def goes_on(self, last: int) -> bool:
        """Whether a text goes on with another behind this token, or begins one."""
        return self._begins_apart or last not in self._special_ids

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.special.values())

    @cached_property
    def sizes(self) -> list[int]:
        """`num_bytes` as a list, for the few tokens of one text."""
        return self.num_bytes.tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The text behind ids; special tokens have none. Bytes that are no UTF-8 are U+FFFD."""
        if self._spelling.of_bytes:
            data = b"".join(map(self.token_bytes.__getitem__, ids))
            return data.removeprefix(self.prefix).decode("utf-8", "replace")
        return self._inner.decode(list(ids), skip_special_tokens=True)

    def shown(self, ids: Sequence[int]) -> str:
        """The same with the names of special tokens in their places."""
        names = {id: name.encode() for name, id in self.special.items()}
        return b"".join(names.get(id) or self.token_bytes[id] for id in ids).decode("utf-8", "replace")

    def encode_with_special(self, text: str) -> list[int]:
        """The ids of a text in which the names of special tokens stand for these tokens."""
        return self.encode_rendered([(text, ())])[0]

    def encode_rendered(self, texts: Sequence[Said]) -> list[list[int]]:
        """The same for many texts, each with the ranges in which names are text, in order."""
        return [found.ids for found, _ in self.rendered([(text, ("", ())) for text in texts])]

    def rendered(self, texts: Sequence[tuple[Said, Said]]) -> list[tuple[Tokens, Tokens]]:
        """Texts in two parts, each with the ranges in which names are text, tokenised apart as what they are: one text.

        The ids are those that the library gives for all of it, but for what it would join across the two.
        """
        divided = [divide(parts, self._text) for parts in texts]
        known = self._known(piece for both in divided for part in both for piece in part)

        def tokens(part: Sequence[Piece]) -> Tokens:
            found = [one for piece in part for one in (known[piece.text, piece.goes_on], self._behind(piece))]
            return joined(found, self.token_bytes)

        return [(tokens(first), tokens(second)) for first, second in divided]

    def _known(self, pieces: Iterable[Piece]) -> dict[tuple[str, bool], Tokens]:
        """Each text among the pieces, tokenised once: a history is rendered again for each turn."""
        wanted = {(piece.text, piece.goes_on) for piece in pieces}
        found = {key: Tokens([]) for key in wanted if not key[0]}
        for goes_on in (False, True):
            some = [text for text, place in wanted if text and place == goes_on]
            tokens = self.tokens(some, goes_on=goes_on)
            found |= {(text, goes_on): one for text, one in zip(some, tokens, strict=True)}
        return found

    def _behind(self, piece: Piece) -> Tokens:
        """The special token behind a piece, which may take blanks around it with it."""
        ids = [self.special[piece.name]] if piece.name else []
        if not piece.num_taken:
            return Tokens(ids)
        return Tokens(ids, [piece.num_taken] * len(ids), False, 0 if ids else piece.num_taken)

    @cached_property
    def _text(self) -> Text:
        added = self._inner.get_added_tokens_decoder().values()
        strips = {token.content: (token.lstrip, token.rstrip) for token in added if token.lstrip or token.rstrip}
        return Text(self.special_names, strips, self._begins_apart)

    @cached_property
    def special_names(self) -> re.Pattern[str]:
        """Finds the names of special tokens in a text, the longest where several begin."""
        added = self._inner.get_added_tokens_decoder().values()
        return special_names(self.special, {token.content for token in added if token.single_word})

    @cached_property
    def is_special(self) -> NDArray[np.bool_]:
        """[V], whether an id stands for no text; what stands for unknown text does."""
        found = np.zeros(self.vocab_size, np.bool_)
        found[[id for id in self._named.values() if id != self.roles.unk]] = True
        return found

    @cached_property
    def begins_word(self) -> NDArray[np.bool_]:
        """[V], whether a word of a text begins here: with a blank, or with no letter."""
        found = self.is_special.copy()
        for piece, id in self._inner.get_vocab(with_added_tokens=False).items():
            found[id] |= self._spelling.begins_word(piece)
        return found

    @property
    def named(self) -> Mapping[str, int]:
        """The special tokens by all their names."""
        return self._named

    def with_special_tokens(self, names: Sequence[str]) -> "Tokenizer":
        """The same tokenizer with these special tokens, the missing ones behind all others."""
        missing = [name for name in dict.fromkeys(names) if name not in self._named]
        if not missing:
            return self
        inner = tokenizers.Tokenizer.from_str(self._json)
        inner.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in missing])
        return _checked(Tokenizer(inner, self.roles), missing)

    def piece(self, id: int) -> str:
        """What one id stands for, to be looked at: half a character shows as a replacement, a special token by name."""
        return self.shown([id])

    def to_json(self) -> str:
        """What the `tokenizers` library reads."""
        return self._json

    @property
    def _roles_text(self) -> str:
        return to_toml(self.roles) if self._is_told else ""

    def files(self) -> dict[str, str]:
        """What `load_tokenizer` reads, by name: the library's file, and the roles where that does not tell them."""
        return ({ROLES: self._roles_text} if self._is_told else {}) | {TOKENIZER: self._json}


def _special(vocabulary: Vocabulary, roles: Roles) -> dict[str, int]:
    """The special tokens by name: those that say so, and those that have a role."""
    named = {id: name for name, id in vocabulary.ids.items()}
    told = (roles.bos, *roles.eos, roles.unk, roles.pad, roles.sep, roles.cls, roles.mask, roles.start)
    return {**vocabulary.special, **{named[id]: id for id in told if id in named}}


def _by_ends(text: str, encoding: tokenizers.Encoding) -> Tokens:
    return by_ends(text, encoding.ids, [end for _, end in encoding.offsets])


def _library(description: Mapping[str, Any] | None) -> tokenizers.Tokenizer | None:
    if description is None:
        return None
    inner = tokenizers.Tokenizer.from_str(json.dumps(description))
    inner.encode_special_tokens = True
    return inner


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = (), num_bytes: int | None = None
) -> Tokenizer:
    """Byte-level BPE of at most `vocab_size` pieces, special ones included; a text too small for that gives fewer.

    Further special tokens come after <|endoftext|>, which is always there.
    The same texts give the same tokenizer, byte for byte, on any number of threads. No piece is longer than
    `bpe.LONGEST_PIECE` bytes. Sennrich et al. 2016 (BPE), Radford et al. 2019 (bytes, and the pattern that keeps merges
    inside words). `num_bytes` is how many there are, if that is known: for whoever looks how far it is.
    """
    names = list(dict.fromkeys([END_OF_TEXT, *special_tokens]))
    if vocab_size < len(ALPHABET) + len(names):
        raise ConfigError(
            f"vocab_size={vocab_size} is too small for the 256 bytes and {len(names)} special tokens",
            allowed=f"{len(ALPHABET) + len(names)} or more",
        )
    inner = train_bpe(texts, vocab_size, names, num_bytes)
    return _checked(Tokenizer(inner), names)


def load_tokenizer(path: Path, roles: Roles = NO_ROLES) -> Tokenizer:
    """The tokenizer in a folder, or that a tokenizer.json describes, of every kind that the `tokenizers` library has.

    Which of its special tokens does what is read from the files beside it: the roles.toml of a checkpoint, or
    tokenizer_config.json, special_tokens_map.json and generation_config.json. `roles` come before these. What a file
    says of cutting and padding is left out.
    """
    path = path / TOKENIZER if path.is_dir() else path
    try:
        inner = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise _unreadable(path, error) if path.is_file() else _missing(path) from error
    if getattr(inner.model, "dropout", None):
        raise ModelError(
            f"{path} is not a tokenizer to train with: its BPE has dropout, so that a text has other ids each time",
            cure='"dropout": null in that file',
        )
    tokenizer = Tokenizer(inner, roles, path.parent)
    if not tokenizer.roles.eos:
        names = ", ".join(sorted(tokenizer.special)) or "none"
        raise ModelError(
            f"{path} is not a tokenizer to train with: it has no end-of-text token; its special tokens: {names}",
            allowed=f"a special token {', '.join(NAMES['eos'])}, or one that a tokenizer_config.json beside it names "
            "as eos_token",
        )
    return tokenizer


def _checked(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """The tokenizer, if no text has one of these special tokens in it."""
    for name in names:
        if len(name) < 2:
            raise ConfigError(f"{name!r} as the name of a special token", allowed="two characters or more")
        (ids,) = tokenizer.encode([name])
        if tokenizer.special.get(name) in {None, *ids}:
            raise ConfigError(
                f"{name!r} cannot be a special token: it is a piece of text in this tokenizer already",
                cure="another name, or a tokenizer in which it is special",
            )
    return tokenizer


_CURE = "with transformers: AutoTokenizer.from_pretrained('FOLDER').save_pretrained('NEW'), which writes one"


def _missing(path: Path) -> ModelError:
    others = sorted(one.name for pattern in _OTHERS for one in path.parent.glob(pattern))
    beside = f"; {', '.join(others)} is what other libraries read" if others else ""
    allowed = "the path of a tokenizer.json, or of its folder"
    return ModelError(f"no such tokenizer: {path}{beside}", allowed=allowed, cure=_CURE if others else "")


def _unreadable(path: Path, error: Exception) -> ModelError:
    if any(path.match(pattern) for pattern in _OTHERS):
        return ModelError(f"{path} is not a tokenizer.json, but what other libraries read", cure=_CURE)
    return ModelError(f"{path} is not a tokenizer.json: {error}")


_OTHERS = ("*.model", "*.spm", "*.tiktoken", "*tekken*.json", "vocab.json", "vocab.txt", "merges.txt")
"""Tokenizers that other libraries read."""
