"""Encoded records as rows of tables, a batch at a time."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from thetahat.data.corpus.encode import Encoding, OnError, encode_records
from thetahat.data.corpus.schemas import SCHEMAS
from thetahat.data.read.record import Record
from thetahat.data.tokens.encoded import Encoded
from thetahat.data.tokens.tokenizer import Tokenizer

Tables = dict[str, Any]  # of SCHEMAS, pyarrow's
Sizes = NDArray[np.uint32] | None  # bytes behind each token; None: those of the tokenizer's table
Batch = tuple[NDArray[Any], Sizes, Tables]
_BATCH_CHARACTERS = 1 << 20  # tokenised at a time; each takes some 30 bytes of memory meanwhile


def encode_batches(
    records: Iterable[Record], rows: "Rows", tokenizer: Tokenizer, encoding: Encoding, on_error: OnError
) -> Iterator[Batch]:
    """The tokens and the tables of records, some at a time."""
    for batch in batched(records, _BATCH_CHARACTERS):
        for record, encoded in zip(batch, encode_records(batch, tokenizer, encoding, on_error), strict=True):
            if encoded is not None:
                rows.add(record, encoded)
        yield rows.take()


@final
class Rows:
    """Rows with running numbers: of documents, parts, sequences and tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes, self._dtype = tokenizer.num_bytes, dtype_of(tokenizer)
        self._documents = self._parts = self._sequences = self._tokens = 0
        self._forget()

    def _forget(self) -> None:
        self._rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in SCHEMAS}
        self._ids = array("I")
        self._part = array("I")  # of each token, within its record
        self._first_part = array("q")  # of the record of each span
        self._sizes = list[tuple[int, tuple[int, ...]]]()  # of parts whose tokens have other bytes than the table says

    @property
    def num_sequences(self) -> int:
        """How many there are so far."""
        return self._sequences

    def add(self, record: Record, encoded: Encoded) -> None:
        """Appends a record."""
        for spans in encoded.sequences:
            for index, span in enumerate(spans):
                parent = index - span.parent if span.parent >= 0 else 0
                row = self._documents, self._sequences, parent, span.position, len(span.tokens)
                self._rows["spans"].append(row)
                self._ids.extend(span.tokens)
                self._part.extend(_repeated(span.part))
                self._first_part.append(self._parts)
            self._sequences += 1
        self._rows["parts"] += [
            (self._documents, part.name, part.role, part.weight, part.is_prompt, part.num_bytes, part.is_lossless)
            for part in encoded.parts
        ]
        own = [(self._parts + index, part.sizes) for index, part in enumerate(encoded.parts) if part.sizes is not None]
        self._sizes += own
        self._rows["documents"].append(_document(record, encoded))
        self._parts += len(encoded.parts)
        self._documents += 1

    def take(self) -> Batch:
        """What was added since the last time."""
        tokens, length = np.array(self._ids, self._dtype), np.array([row[-1] for row in self._rows["spans"]], np.int64)
        part = np.array(self._part, np.int64) + np.repeat(np.array(self._first_part, np.int64), length)
        is_first = np.zeros(len(tokens), np.bool_)
        is_first[np.cumsum(length) - length] = True
        start = np.flatnonzero(is_first | (np.diff(part, prepend=-1) != 0))
        before, asked = self._parts - len(self._rows["parts"]), ~is_first
        sizes = self._sizes_of(tokens, part, asked)
        of_token = self._token_bytes[tokens[asked]] if sizes is None else sizes[asked]
        size = np.bincount(part[asked] - before, of_token, len(self._rows["parts"]))
        tables = {name: _table(name, self._rows[name]) for name in SCHEMAS}
        tables["segments"] = pa.table([self._tokens + start, part[start]], SCHEMAS["segments"])
        num_bytes = compute.coalesce(tables["parts"]["num_bytes"], pa.array(size.astype(np.int64)))  # pyright: ignore[reportAttributeAccessIssue]
        tables["parts"] = tables["parts"].set_column(5, SCHEMAS["parts"].field("num_bytes"), num_bytes)
        self._tokens += len(tokens)
        self._forget()
        return tokens, sizes, tables

    def _sizes_of(self, tokens: NDArray[Any], part: NDArray[np.int64], asked: NDArray[np.bool_]) -> Sizes:
        """Bytes of the text behind each token: of some parts their own, one token after the other."""
        if not self._sizes:
            return None
        found = self._token_bytes[tokens].astype(np.uint32)
        known = np.array([number for number, _ in self._sizes])
        place = np.flatnonzero(asked & np.isin(part, known))
        place = place[np.argsort(part[place], kind="stable")]
        is_read = np.isin(known, part[place])  # a turn may have been left out with all of its tokens
        own = [np.array(sizes, np.uint32) for (_, sizes), some in zip(self._sizes, is_read, strict=True) if some]
        found[place] = np.concatenate([found[:0], *own])
        return found


def _repeated(part: Sequence[int]) -> Sequence[int]:
    """The same numbers, in a form that is copied at once where all are one, as in most spans."""
    only = part[0]
    return array("I", [only]) * len(part) if part[-1] == only and part.count(only) == len(part) else part


def _table(name: str, rows: list[tuple[Any, ...]]) -> Any:
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMAS[name])
    arrays = [pa.array(column, kind) for column, kind in zip(columns, SCHEMAS[name].types, strict=True)]
    return pa.table(arrays, SCHEMAS[name])


def _document(record: Record, encoded: Encoded) -> tuple[Any, ...]:
    identity, cut = (record.id, record.document, record.source), (encoded.tokens_cut, encoded.prompt_cut)
    folded = hashlib.blake2b(record.folded.encode(), digest_size=8).digest()
    read = record.read_as, "\n".join(name.replace("\n", " ") for name in record.unread)
    return *identity, record.weight, *cut, "\n".join(encoded.notes), *read, record.digest, folded


def batched(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """Records that have `size` characters or more together."""
    batch: list[Record] = []
    num_characters = 0
    for record in records:
        batch.append(record)
        num_characters += len(record.canonical)
        if num_characters >= size:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def sizes_of(tokens: NDArray[Any], sizes: Sizes, tokenizer: Tokenizer) -> NDArray[np.uint32]:
    """Bytes of the text behind each token: those of its document, or of the table."""
    return tokenizer.num_bytes[tokens.astype(np.int64)].astype(np.uint32) if sizes is None else sizes


def dtype_of(tokenizer: Tokenizer) -> type[np.uint16] | type[np.uint32]:
    """That of its ids in files."""
    return np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
