"""Documents as token ids, in memory or mapped from a cache that is never stale."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import tokenizers
from numpy.typing import NDArray
from pyarrow import parquet

from thetahat.core import store
from thetahat.core.batch import Part
from thetahat.core.errors import DataError, ModelError
from thetahat.data.cache import default_cache as default_cache, waiting_for
from thetahat.data.source import Record
from thetahat.data.tokenizer import Tokenizer

VERSION = 1  # of the format on disk
_BATCH_CHARACTERS = 1 << 22  # tokenised at a time
Row = dict[str, Any]
_COLUMNS = pa.schema(
    {
        "id": pa.string(),
        "document": pa.string(),
        "source": pa.string(),
        "weight": pa.float64(),
        "num_bytes": pa.int64(),
        "length": pa.int64(),
        "digest": pa.binary(16),
    }
)


@final
@dataclass(frozen=True, slots=True)
class Corpus:
    """Every document as `<|endoftext|>`, its tokens, `<|endoftext|>`; read-only, in the order of the data."""

    tokens: NDArray[Any]  # all sequences, one behind the other
    documents: pa.Table  # one row each: id, document, source, weight, num_bytes, length, digest
    end_of_text: int
    token_bytes: NDArray[np.int64]  # [V], of text behind each id
    fingerprint: str
    lengths: NDArray[np.int64] = field(init=False)  # [documents], both <|endoftext|> included
    offsets: NDArray[np.int64] = field(init=False)  # [documents + 1], where each sequence starts in `tokens`

    def __post_init__(self) -> None:
        lengths = self.documents["length"].to_numpy()
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "offsets", np.concatenate([[0], np.cumsum(lengths)]))

    @property
    def num_documents(self) -> int:
        """How many documents there are."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """What a causal model predicts: every token of every document, and one end each."""
        return int(self.offsets[-1]) - self.num_documents

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of text."""
        return int(self.documents["num_bytes"].to_numpy().sum())

    def sequence(self, index: int) -> NDArray[np.int64]:
        """The ids of a document, `<|endoftext|>` at both ends."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)

    def num_bytes_of(self, index: int) -> int:
        """UTF-8 bytes of a document."""
        return self.documents["num_bytes"][index].as_py()

    def part(self, index: int, sequence_tokens: int | None = None) -> Part:
        """The ledger row of a document, of which `sequence_tokens` targets are kept (None: all)."""
        row = {name: self.documents[name][index].as_py() for name in ("id", "document", "source", "weight")}
        num_tokens = int(self.lengths[index]) - 1 if sequence_tokens is None else sequence_tokens
        return Part(**row, num_tokens=num_tokens, record_tokens=num_tokens)


def build_corpus(
    records: Iterable[Record], tokenizer: Tokenizer, settings: Mapping[str, str], cache: Path | None
) -> Corpus:
    """The records as tokens: from the cache if exactly these were there before, else made (and kept, given a cache)."""
    if iter(records) is records:
        records = list(records)  # it can be read once only, and is read twice
    fingerprint = fingerprint_of(records, tokenizer, settings)
    if cache is None:
        tokens, rows = zip(*_tokenise(records, tokenizer), strict=True)
        documents = _table([row for batch in rows for row in batch])
        return Corpus(
            np.concatenate(tokens), documents, tokenizer.end_of_text, tokenizer.num_bytes.numpy(), fingerprint
        )
    folder = cache / fingerprint
    with waiting_for(cache / f".{fingerprint}.lock"):
        if not _is_intact(folder):
            with store.publishing(folder) as partial:
                seen = _Fingerprint(tokenizer, settings)
                _write(partial, seen.watching(records), tokenizer)
                if seen.digest() != fingerprint:
                    raise DataError("the data changed while it was read", cure="start again when nothing writes to it")
        return _open(folder, tokenizer)


def shared_documents(ours: Corpus, theirs: Corpus) -> list[str]:
    """The ids of our documents whose very text is among theirs: where it is not empty, a held-out set leaks."""
    known = set(theirs.documents["digest"].to_pylist())
    rows = zip(ours.documents["id"].to_pylist(), ours.documents["digest"].to_pylist(), strict=True)
    return [id for id, digest in rows if digest in known]


def fingerprint_of(records: Iterable[Record], tokenizer: Tokenizer, settings: Mapping[str, str]) -> str:
    """A digest of all that a corpus is made from: texts, ids, sources, weights, tokenizer, settings, format."""
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
            self._add(record.text, record.id, record.document, record.source, record.weight.hex())
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


def _is_intact(folder: Path) -> bool:
    if not folder.exists():
        return False
    try:
        store.verify(folder)
    except ModelError:
        store.remove(folder)
        return False
    return True


def _open(folder: Path, tokenizer: Tokenizer) -> Corpus:
    documents = parquet.read_table(folder / "documents.parquet", memory_map=True).combine_chunks()
    tokens = np.memmap(folder / "tokens.bin", dtype=_dtype(tokenizer), mode="r")
    return Corpus(tokens, documents, tokenizer.end_of_text, tokenizer.num_bytes.numpy(), folder.name)


def _write(folder: Path, records: Iterable[Record], tokenizer: Tokenizer) -> None:
    with (
        (folder / "tokens.bin").open("wb") as file,
        parquet.ParquetWriter(folder / "documents.parquet", _COLUMNS) as writer,
    ):
        for tokens, rows in _tokenise(records, tokenizer):
            file.write(tokens.tobytes())
            writer.write_table(_table(rows))


def _tokenise(records: Iterable[Record], tokenizer: Tokenizer) -> Iterator[tuple[NDArray[Any], list[Row]]]:
    end, token_bytes = [tokenizer.end_of_text], tokenizer.num_bytes.numpy()
    for batch in _batches(records):
        texts = tokenizer.encode([record.text for record in batch])
        sequences = [np.array([*end, *ids, *end], dtype=_dtype(tokenizer)) for ids in texts]
        rows = [_row(record, ids, token_bytes) for record, ids in zip(batch, sequences, strict=True)]
        yield np.concatenate(sequences), rows


def _table(rows: list[Row]) -> Any:
    return pa.Table.from_pylist(rows, schema=_COLUMNS)


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    num_characters = 0
    for record in records:
        batch.append(record)
        num_characters += len(record.text)
        if num_characters >= _BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _row(record: Record, ids: NDArray[Any], token_bytes: NDArray[np.int64]) -> Row:
    data = record.text.encode()
    num_bytes = int(token_bytes[ids].sum())
    if num_bytes != len(data):
        raise ModelError(
            f"the tokenizer loses text: the tokens of {record.id} stand for {num_bytes} of its {len(data)} bytes",
            cure="data.tokenizer=none trains one that loses nothing",
        )
    return {
        "id": record.id,
        "document": record.document,
        "source": record.source,
        "weight": record.weight,
        "num_bytes": num_bytes,
        "length": len(ids),
        "digest": hashlib.blake2b(data, digest_size=16).digest(),
    }


def _dtype(tokenizer: Tokenizer) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
