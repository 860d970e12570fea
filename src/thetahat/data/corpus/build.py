"""Makes corpora, and keeps them in a cache by a digest of all that they are made from."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, final

import msgspec
import numpy as np
import pyarrow as pa
import tokenizers
from numpy.typing import NDArray
from pyarrow import compute

from thetahat.core import store
from thetahat.core.errors import DataError
from thetahat.core.layout import Layout
from thetahat.data.corpus.corpus import SCHEMAS, Corpus
from thetahat.data.corpus.encode import Encoding, encode_records
from thetahat.data.corpus.tables import TableWriter, open_tables
from thetahat.data.read.bad import BadRecords, tell_skipped
from thetahat.data.read.cache import code_digest, waiting_for
from thetahat.data.read.record import Record
from thetahat.data.read.source import Mixed, Records
from thetahat.data.read.texts import Texts, is_whole
from thetahat.data.tokens.encoded import Encoded
from thetahat.data.tokens.tokenizer import Tokenizer

VERSION = 4  # of what a fingerprint is of
_BATCH_CHARACTERS = 1 << 22  # tokenised at a time
Tables = dict[str, Any]  # of SCHEMAS, pyarrow's
Sizes = NDArray[np.uint32] | None  # bytes behind each token; None: those of the tokenizer's table
Batch = tuple[NDArray[Any], Sizes, Tables]
_TOKENS, _SIZES = "tokens.bin", "sizes.bin"
_TEXT = Encoding()
_FACTS = "facts.json"


def build_corpus(
    records: Iterable[Record],
    tokenizer: Tokenizer,
    settings: Mapping[str, str],
    cache: Path | None,
    encoding: Encoding = _TEXT,
) -> Corpus:
    """The records as tokens: from the cache if exactly these were there before, else made (and kept, given a cache).

    `Texts` and `Records` are told apart by the digests of their files, so that nothing is read to find them in the
    cache; other records by their content.
    """
    if iter(records) is records:
        records = list(records)  # it can be read once only, and may be read twice
    told = {**settings, **encoding.settings()}
    seen, bad = _Fingerprint(tokenizer, told), BadRecords(encoding.on_bad_record)
    encoded = _encode(seen.watching(records), tokenizer, encoding, bad)
    if cache is None:
        tokens, sizes, batches = zip(*encoded, strict=True)
        tell_skipped(*bad.lines)
        tables = {name: pa.concat_tables([batch[name] for batch in batches]) for name in SCHEMAS}
        one = {name: table.unify_dictionaries().combine_chunks() for name, table in tables.items()}
        texts = (
            np.concatenate(tokens),
            None
            if all(some is None for some in sizes)
            else np.concatenate([_sizes(ids, some, tokenizer) for ids, some in zip(tokens, sizes, strict=True)]),
        )
        return _corpus(texts, one, tokenizer, seen.digest(), encoding.layout)
    is_of_files = isinstance(records, Texts | Records | Mixed)
    source = {**told, "files": records.digest} if is_of_files else told
    content = _Fingerprint(tokenizer, source).digest() if is_of_files else fingerprint_of(records, tokenizer, told)
    skips = encoding.on_bad_record if encoding.on_bad_record == "skip" else ""
    name = hashlib.blake2b((code_digest() + content + skips).encode(), digest_size=16).hexdigest()
    folder = cache / name
    with waiting_for(cache / f".{name}.lock"):
        if not is_whole(folder):
            with store.publishing(folder) as partial:
                _write(partial, encoded, tokenizer)
                store.write_json(partial / _FACTS, {"fingerprint": seen.digest(), "bad": bad.lines})
                if not is_of_files and seen.digest() != content:
                    raise DataError("the data changed while it was read", cure="start again when nothing writes to it")
        return _open(folder, tokenizer, encoding.layout)


def corpus_of_encoded(records: Iterable[tuple[Record, Encoded]], tokenizer: Tokenizer, layout: Layout) -> Corpus:
    """Records that are token ids already, in memory; its fingerprint is of their ids and these tokens."""
    tables, fingerprint = _Tables(tokenizer), hashlib.blake2b(tokenizer.digest.encode(), digest_size=16)
    for record, encoded in records:
        tables.add(record, encoded)
        fingerprint.update(msgspec.json.encode([record.canonical, encoded.sequences]))
    tokens, sizes, rows = tables.take()
    return _corpus((tokens, sizes), rows, tokenizer, fingerprint.hexdigest(), layout)


def fingerprint_of(records: Iterable[Record], tokenizer: Tokenizer, settings: Mapping[str, str]) -> str:
    """A digest of all that a corpus is made from: records, tokenizer, settings, format."""
    fingerprint = _Fingerprint(tokenizer, settings)
    for _ in fingerprint.watching(records):
        pass
    return fingerprint.digest()


@final
class _Fingerprint:
    def __init__(self, tokenizer: Tokenizer, settings: Mapping[str, str]) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._add(str(VERSION), tokenizers.__version__, tokenizer.digest, json.dumps(dict(settings), sort_keys=True))

    def watching(self, records: Iterable[Record]) -> Iterator[Record]:
        """The same records, of which this keeps account."""
        heaviest = -1.0
        for record in records:
            self._add(record.canonical, record.id, record.document, record.source, record.weight.hex())
            heaviest = max(heaviest, record.weight)
            yield record
        if heaviest < 0:
            raise DataError("the data holds no document")
        if heaviest == 0:
            raise DataError("every document has weight 0, so nothing counts", cure="give some record a weight above 0")

    def digest(self) -> str:
        return self._hash.hexdigest()

    def _add(self, *texts: str) -> None:
        for text in texts:
            data = text.encode()
            self._hash.update(len(data).to_bytes(8, "little"))  # so that no two lists of texts look alike
            self._hash.update(data)


def _open(folder: Path, tokenizer: Tokenizer, layout: Layout) -> Corpus:
    tables, numbers = open_tables(folder)
    tokens = np.memmap(folder / _TOKENS, dtype=_dtype(tokenizer), mode="r")
    sizes = np.memmap(folder / _SIZES, dtype=np.uint32, mode="r") if (folder / _SIZES).is_file() else None
    facts = json.loads((folder / _FACTS).read_bytes())
    tell_skipped(*facts["bad"])
    bytes_of = tokenizer.num_bytes.numpy()
    return Corpus(tokens, tables, tokenizer.symbols, bytes_of, facts["fingerprint"], layout, sizes, numbers)


def _corpus(
    texts: tuple[NDArray[Any], Sizes], tables: dict[str, Any], tokenizer: Tokenizer, fingerprint: str, layout: Layout
) -> Corpus:
    tokens, sizes = texts
    return Corpus(tokens, tables, tokenizer.symbols, tokenizer.num_bytes.numpy(), fingerprint, layout, sizes)


def _sizes(tokens: NDArray[Any], sizes: Sizes, tokenizer: Tokenizer) -> NDArray[np.uint32]:
    """Bytes of the text behind each token: those of its document, or of the table."""
    return tokenizer.num_bytes.numpy()[tokens.astype(np.int64)].astype(np.uint32) if sizes is None else sizes


def _write(folder: Path, batches: Iterable[Batch], tokenizer: Tokenizer) -> None:
    """The tokens, the tables, and, as soon as a token has other bytes than the table says, the bytes of all of them."""
    with ExitStack() as stack:
        file = stack.enter_context((folder / _TOKENS).open("wb"))
        writer = stack.enter_context(TableWriter(folder))
        of_bytes: BinaryIO | None = None
        for tokens, sizes, tables in batches:
            if of_bytes is None and sizes is not None:
                of_bytes = stack.enter_context((folder / _SIZES).open("wb"))
                file.flush()
                _write_sizes(of_bytes, folder / _TOKENS, tokenizer)
            file.write(tokens.tobytes())
            if of_bytes is not None:
                of_bytes.write(_sizes(tokens, sizes, tokenizer).tobytes())
            writer.write(tables)


def _write_sizes(file: BinaryIO, tokens: Path, tokenizer: Tokenizer) -> None:
    """The bytes of the tokens that are written already, which the table knows."""
    if tokens.stat().st_size:
        written = np.memmap(tokens, dtype=_dtype(tokenizer), mode="r")
        for start in range(0, len(written), _BATCH_CHARACTERS):
            file.write(_sizes(written[start : start + _BATCH_CHARACTERS], None, tokenizer).tobytes())


def _encode(records: Iterable[Record], tokenizer: Tokenizer, encoding: Encoding, bad: BadRecords) -> Iterator[Batch]:
    """The tokens and the tables, a batch of records at a time."""
    tables, num_tokens = _Tables(tokenizer), 0
    for batch in _batches(records):
        for record, encoded in zip(batch, encode_records(batch, tokenizer, encoding, bad), strict=True):
            if encoded is not None:
                tables.add(record, encoded)
        tokens, sizes, taken = tables.take()
        num_tokens += len(tokens)
        yield tokens, sizes, taken
    bad.settle()
    if not num_tokens:
        why = f": {bad.lines[0]}" if len(bad) else ""
        raise DataError(
            f"every record is left out{why}", cure="other data, or another data.over_long or data.unsupervised"
        )


@final
class _Tables:
    """Rows with running numbers: of documents, parts, sequences and tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes, self._dtype = tokenizer.num_bytes.numpy(), _dtype(tokenizer)
        self._documents = self._parts = self._sequences = self._tokens = 0
        self._forget()

    def _forget(self) -> None:
        self._rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in SCHEMAS}
        self._ids = array("I")
        self._part = array("I")  # of each token, within its record
        self._first_part = array("q")  # of the record of each span
        self._sizes = list[tuple[int, tuple[int, ...]]]()  # of parts whose tokens have other bytes than the table says

    def add(self, record: Record, encoded: Encoded) -> None:
        for spans in encoded.sequences:
            for index, span in enumerate(spans):
                parent = index - span.parent if span.parent >= 0 else 0
                row = self._documents, self._sequences, parent, span.position, len(span.tokens)
                self._rows["spans"].append(row)
                self._ids.extend(span.tokens)
                self._part.extend(span.part)
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


def _table(name: str, rows: list[tuple[Any, ...]]) -> Any:
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMAS[name])
    arrays = [pa.array(column, kind) for column, kind in zip(columns, SCHEMAS[name].types, strict=True)]
    return pa.table(arrays, SCHEMAS[name])


def _document(record: Record, encoded: Encoded) -> tuple[Any, ...]:
    identity, cut = (record.id, record.document, record.source), (encoded.tokens_cut, encoded.prompt_cut)
    folded = hashlib.blake2b(record.folded.encode(), digest_size=8).digest()
    read = record.read_as, "\n".join(name.replace("\n", " ") for name in record.unread)
    return *identity, record.weight, *cut, "\n".join(encoded.notes), *read, record.digest, folded


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    num_characters = 0
    for record in records:
        batch.append(record)
        num_characters += len(record.canonical)
        if num_characters >= _BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _dtype(tokenizer: Tokenizer) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
