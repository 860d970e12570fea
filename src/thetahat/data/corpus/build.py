"""Makes corpora, and keeps them in a cache by a digest of all that they are made from."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, final

import msgspec
import numpy as np
import pyarrow as pa
import tokenizers
from numpy.typing import NDArray

from thetahat.core import store
from thetahat.core.errors import DataError
from thetahat.core.layout import Layout
from thetahat.data.corpus.corpus import SCHEMAS, Corpus
from thetahat.data.corpus.encode import Encoding
from thetahat.data.corpus.rows import Batch, Rows, Sizes, dtype_of, encode_batches, sizes_of
from thetahat.data.corpus.shards import encode_in_shards, is_large, remove_shards
from thetahat.data.corpus.tables import TableWriter, open_tables
from thetahat.data.read.bad import BadRecords, tell_skipped
from thetahat.data.read.cache import code_digest, is_whole, note_use, waiting_for
from thetahat.data.read.record import Record
from thetahat.data.read.source import Mixed, Records
from thetahat.data.read.texts import Texts
from thetahat.data.tokens.encoded import Encoded
from thetahat.data.tokens.symbols import symbols_of
from thetahat.data.tokens.tokenizer import Tokenizer

VERSION = 4  # of what a fingerprint is of
_AT_ONCE = 1 << 22  # tokens
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
    encoded = _checked(encode_batches(seen.watching(records), Rows(tokenizer), tokenizer, encoding, bad), bad)
    if cache is None:
        tokens, sizes, batches = zip(*encoded, strict=True)
        tell_skipped(*bad.lines)
        tables = {name: pa.concat_tables([batch[name] for batch in batches]) for name in SCHEMAS}
        one = {name: table.unify_dictionaries().combine_chunks() for name, table in tables.items()}
        texts = (
            np.concatenate(tokens),
            None
            if all(some is None for some in sizes)
            else np.concatenate([sizes_of(ids, some, tokenizer) for ids, some in zip(tokens, sizes, strict=True)]),
        )
        return _corpus(texts, one, tokenizer, seen.digest(), encoding.layout)
    is_of_files = isinstance(records, Texts | Records | Mixed)
    source = {**told, "files": records.digest} if is_of_files else told
    content = _Fingerprint(tokenizer, source).digest() if is_of_files else fingerprint_of(records, tokenizer, told)
    skips = encoding.on_bad_record if encoding.on_bad_record == "skip" else ""
    name = hashlib.blake2b((code_digest() + content + skips).encode(), digest_size=16).hexdigest()
    folder, shards = cache / name, cache / f"{name}.shards"
    with waiting_for(cache / f".{name}.lock"):
        if not is_whole(folder):
            if isinstance(records, Texts | Records | Mixed) and is_large(records):
                watched = seen.watching(records)
                encoded = _checked(encode_in_shards(records, watched, tokenizer, encoding, bad, shards), bad)
            with store.publishing(folder) as partial:
                _write(partial, encoded, tokenizer)
                facts = {"fingerprint": seen.digest(), "bad": bad.lines, "unread": _unread(records)}
                store.write_json(partial / _FACTS, facts)
                if not is_of_files and seen.digest() != content:
                    raise DataError("the data changed while it was read", cure="start again when nothing writes to it")
            remove_shards(shards)
        note_use(folder, {"of": _described(records), "tokenizer": tokenizer.digest[:12], **settings})
        return _open(folder, tokenizer, encoding.layout)


def _unread(records: Iterable[Record]) -> list[list[str]]:
    """What was left out when they were read: said again, whoever opens the corpus."""
    if not isinstance(records, Texts | Records | Mixed):
        return []
    texts = [records] if isinstance(records, Texts) else [part.texts for _, part in records.sources]
    return [some.skipped for some in texts]


def _described(records: Iterable[Record]) -> str:
    if not isinstance(records, Texts | Records | Mixed):
        return "records"
    return ", ".join(map(str, records.files[:3])) + ", ..." * (len(records.files) > 3)


def corpus_of_encoded(records: Iterable[tuple[Record, Encoded]], tokenizer: Tokenizer, layout: Layout) -> Corpus:
    """Records that are token ids already, in memory; its fingerprint is of their ids and these tokens."""
    tables, fingerprint = Rows(tokenizer), hashlib.blake2b(tokenizer.digest.encode(), digest_size=16)
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
    tokens = np.memmap(folder / _TOKENS, dtype=dtype_of(tokenizer), mode="r")
    sizes = np.memmap(folder / _SIZES, dtype=np.uint32, mode="r") if (folder / _SIZES).is_file() else None
    facts = json.loads((folder / _FACTS).read_bytes())
    for lines in (*facts["unread"], facts["bad"]):
        tell_skipped(*lines)
    symbols, bytes_of = symbols_of(tokenizer), tokenizer.num_bytes
    return Corpus(tokens, tables, symbols, bytes_of, facts["fingerprint"], layout, sizes, numbers)


def _corpus(
    texts: tuple[NDArray[Any], Sizes], tables: dict[str, Any], tokenizer: Tokenizer, fingerprint: str, layout: Layout
) -> Corpus:
    tokens, sizes = texts
    return Corpus(tokens, tables, symbols_of(tokenizer), tokenizer.num_bytes, fingerprint, layout, sizes)


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
                of_bytes.write(sizes_of(tokens, sizes, tokenizer).tobytes())
            writer.write(tables)


def _write_sizes(file: BinaryIO, tokens: Path, tokenizer: Tokenizer) -> None:
    """The bytes of the tokens that are written already, which the table knows."""
    if tokens.stat().st_size:
        written = np.memmap(tokens, dtype=dtype_of(tokenizer), mode="r")
        for start in range(0, len(written), _AT_ONCE):
            file.write(sizes_of(written[start : start + _AT_ONCE], None, tokenizer).tobytes())


def _checked(batches: Iterable[Batch], bad: BadRecords) -> Iterator[Batch]:
    """The batches; at their end an error if a record cannot be encoded and none may be, or if none is left."""
    num_tokens = 0
    for batch in batches:
        num_tokens += len(batch[0])
        yield batch
    bad.settle()
    if not num_tokens:
        why = f": {bad.lines[0]}" if len(bad) else ""
        raise DataError(
            f"every record is left out{why}", cure="other data, or another data.over_long or data.unsupervised"
        )
