"""Text to token ids and back: byte-level BPE, with the number of bytes that stand behind each id."""

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

import tokenizers
import torch
from jaxtyping import Int
from torch import Tensor

from thetahat.core.batch import Symbols
from thetahat.core.errors import ConfigError, ModelError
from thetahat.data.tokens.bpe import ALPHABET, train_bpe

END_OF_TEXT = "<|endoftext|>"
_ENDS = (END_OF_TEXT, "<|end_of_text|>")
# The byte alphabet writes a byte as its Latin-1 character where that is printable, and the others from U+0100 on.
_UNPRINTABLE = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
_FROM_ALPHABET = {0x100 + place: byte for place, byte in enumerate(_UNPRINTABLE)}
_BLANKS = "\u0120\u010a\u0109\u010d"  # blank, new line, tabulator and return, as the byte alphabet writes them
_PROBE = (
    "".join(map(chr, range(1, 0x250)))
    + "  \r\n\t é e\u0301 \u200d \u4e2d\u6587 \U0001f600\ufeff <|endoftext|> don't 1234567 "
)


@final
class Tokenizer:
    """A lossless map between Unicode text and ids; no text maps to `end_of_text`, not even its name."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.encode_special_tokens = True  # a literal <|endoftext|> in a text is text
        inner.no_truncation()
        inner.no_padding()
        vocabulary = inner.get_vocab(with_added_tokens=True)
        self._inner = inner
        special = {token.content: id for id, token in inner.get_added_tokens_decoder().items() if token.special}
        self.end_of_text: int = next(special[name] for name in _ENDS if name in special)
        self.vocab_size: int = max(vocabulary.values()) + 1
        self.token_bytes: list[bytes] = _token_bytes(inner, self.vocab_size)
        self.num_bytes: Int[Tensor, " V"] = torch.tensor([len(piece) for piece in self.token_bytes])
        self.special = special
        self.digest: str = hashlib.sha256(self.to_json().encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without anything in front or behind."""
        return [encoding.ids for encoding in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    @cached_property
    def sizes(self) -> list[int]:
        """`num_bytes` as a list, for the few tokens of one text."""
        return self.num_bytes.tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The text behind ids: their bytes as UTF-8, U+FFFD where they are none; special tokens have no bytes."""
        return b"".join(map(self.token_bytes.__getitem__, ids)).decode("utf-8", "replace")

    def shown(self, ids: Sequence[int]) -> str:
        """The same with the names of special tokens in their places."""
        names = {id: name.encode() for name, id in self.special.items()}
        return b"".join(names.get(id) or self.token_bytes[id] for id in ids).decode("utf-8", "replace")

    def encode_with_special(self, text: str) -> list[int]:
        """The ids of a text in which the names of special tokens stand for these tokens."""
        return self.encode_rendered([(text, ())])[0]

    def encode_rendered(self, texts: Sequence[tuple[str, Sequence[tuple[int, int]]]]) -> list[list[int]]:
        """The same for many texts, each with the ranges in which names are text, in order."""
        divided = [self._divided(text, said) for text, said in texts]
        found = {piece for pieces, _ in divided for piece in pieces}
        ids = dict(zip(found, self.encode(list(found)), strict=True))  # a history is rendered again for each turn
        return [
            [id for piece, name in zip(pieces, [*names, ""], strict=True) for id in (*ids[piece], *self._ids(name))]
            for pieces, names in divided
        ]

    def _ids(self, name: str) -> tuple[int, ...]:
        return (self.special[name],) if name else ()

    def _divided(self, text: str, said: Sequence[tuple[int, int]]) -> tuple[list[str], list[str]]:
        """The texts between special tokens, and the names of these."""
        matches = special_in(text, self.special_names, said)
        edges = [0, *(edge for match in matches for edge in match.span()), len(text)]
        pieces = [text[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)]
        return pieces, [match[0] for match in matches]

    @cached_property
    def special_names(self) -> re.Pattern[str]:
        """Finds the names of special tokens in a text, the longest where several begin."""
        return re.compile("|".join(map(re.escape, sorted(self.special, key=len, reverse=True))))

    @cached_property
    def symbols(self) -> Symbols:
        """What a factorization must know of the vocabulary."""
        is_special = torch.zeros(self.vocab_size, dtype=torch.bool)
        is_special[list(self.special.values())] = True
        begins_word = is_special.clone()
        for piece, id in self._inner.get_vocab(with_added_tokens=False).items():
            begins_word[id] |= piece[0] in _BLANKS or not any(letter.isalnum() for letter in piece)
        return Symbols(
            vocab_size=self.vocab_size,
            end_of_text=self.end_of_text,
            is_special=is_special,
            begins_word=begins_word,
            special=self.special,
        )

    def with_special_tokens(self, names: Sequence[str]) -> "Tokenizer":
        """The same tokenizer with these special tokens, the missing ones behind all others."""
        missing = [name for name in dict.fromkeys(names) if name not in self.special]
        if not missing:
            return self
        inner = tokenizers.Tokenizer.from_str(self.to_json())
        inner.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in missing])
        return _checked(Tokenizer(inner), missing)

    def piece(self, id: int) -> str:
        """What one id stands for, to be looked at: half a character shows as a replacement, a special token by name."""
        return self._inner.decode([id], skip_special_tokens=False)

    def to_json(self) -> str:
        """What `load_tokenizer` and the `tokenizers` library read."""
        return self._inner.to_str(pretty=True)


def special_in(text: str, names: re.Pattern[str], said: Sequence[tuple[int, int]]) -> list[re.Match[str]]:
    """Where names of special tokens stand for these: nothing of them lies in the ranges of what somebody has said."""
    if not said:
        return list(names.finditer(text))
    found: list[re.Match[str]] = []
    stops = [stop for _, stop in said]
    place = 0
    while match := names.search(text, place):
        at = bisect_right(stops, match.start())
        if at < len(said) and said[at][0] < match.end():
            place = match.start() + 1
        else:
            found.append(match)
            place = match.end()
    return found


def train_tokenizer(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()) -> Tokenizer:
    """Byte-level BPE of at most `vocab_size` pieces, special ones included; a text too small for that gives fewer.

    Further special tokens come after <|endoftext|>, which is always there.
    The same texts give the same tokenizer, byte for byte, on any number of threads. No piece is longer than
    `bpe.LONGEST_PIECE` bytes. Sennrich et al. 2016 (BPE), Radford et al. 2019 (bytes, and the pattern that keeps merges
    inside words).
    """
    names = list(dict.fromkeys([END_OF_TEXT, *special_tokens]))
    if vocab_size < len(ALPHABET) + len(names):
        raise ConfigError(
            f"vocab_size={vocab_size} is too small for the 256 bytes and {len(names)} special tokens",
            allowed=f"{len(ALPHABET) + len(names)} or more",
        )
    inner = train_bpe(texts, vocab_size, names)
    return _checked(Tokenizer(inner), names)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes, if it is lossless byte-level BPE with an end-of-text token."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        inner = tokenizers.Tokenizer.from_file(str(path))
    except FileNotFoundError as error:
        raise ModelError(f"no such tokenizer: {path}", allowed="the path of a tokenizer.json") from error
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} is not a tokenizer.json: {error}") from error
    _check_kind(description, path)
    tokenizer = Tokenizer(inner)
    _check_lossless(tokenizer, inner, path)
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


def _token_bytes(inner: tokenizers.Tokenizer, vocab_size: int) -> list[bytes]:
    """The bytes of text behind each id; none where the id is special, or no token has it."""
    found = [b""] * vocab_size
    for piece, id in inner.get_vocab(with_added_tokens=False).items():
        found[id] = piece.translate(_FROM_ALPHABET).encode("latin-1", "replace")
    for id, token in inner.get_added_tokens_decoder().items():
        found[id] = b"" if token.special else token.content.encode()
    return found


def _check_kind(description: Mapping[str, Any], path: Path) -> None:
    model = description.get("model") or {}
    vocabulary = model.get("vocab") or {}
    if model.get("type") != "BPE" or not isinstance(vocabulary, dict) or not vocabulary.keys() >= ALPHABET:
        raise _refused(path, f"its model is {model.get('type')}, or lacks some of the 256 bytes")
    if any(model.get(key) for key in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")):
        raise _refused(path, "its BPE has dropout, byte fallback, prefixes or suffixes")
    if description.get("normalizer") is not None:
        raise _refused(path, f"its normalizer, {description['normalizer'].get('type')}, changes the text")
    special = {token["content"] for token in description.get("added_tokens", []) if token.get("special")}
    if not special & set(_ENDS):
        raise _refused(path, f"it has no end-of-text token; its special tokens: {', '.join(sorted(special)) or 'none'}")


def _check_lossless(tokenizer: Tokenizer, inner: tokenizers.Tokenizer, path: Path) -> None:
    (ids,) = tokenizer.encode([_PROBE])
    is_lossless = tokenizer.decode(ids) == inner.decode(ids, skip_special_tokens=True) == _PROBE
    if not is_lossless or int(tokenizer.num_bytes[ids].sum()) != len(_PROBE.encode()):
        raise _refused(path, "a text that is encoded and decoded does not come back as it was")


def _refused(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path} is not a tokenizer to train with: {why}",
        allowed=f"byte-level BPE without normalizer, with a special token {' or '.join(_ENDS)}",
        cure="data.tokenizer=none trains one",
    )
