"""The ledger: a row for every scored part of a record. Every number about likelihood is a sum over its rows."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from thetahat.core import store
from thetahat.core.errors import DataError, naming_full_disk
from thetahat.data.read.named.near import did_you_mean
from thetahat.statistics.interval import BLOCK_TOKENS, exact_sum

# pyright: reportUnknownParameterType=false, reportPrivateUsage=false, reportAttributeAccessIssue=false

VERSION = 2
_CURE = "thetahat score MODEL DATA --out ledger.parquet"


class Block(NamedTuple):
    """Contiguous scored tokens of one row, BLOCK_TOKENS of them or the rest."""

    num_tokens: int
    num_bytes: int
    log_prob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """The likelihood of one document, or of one part of it."""

    id: str
    document: str  # the cluster for intervals
    source: str = ""
    part: str = "document"
    role: str = ""
    num_tokens: int  # scored
    num_bytes: int  # of the scored tokens
    context_length: int  # the most tokens that any scored one could see
    tokens_cut: int = 0  # targets of the data that were not scored
    log_prob: float  # nats, before any weight
    weight: float = 1.0
    step: int | None = None  # of training, in a run's own ledger
    digest: str = ""  # of the whole record as it was written, whatever the tokenizer
    blocks: tuple[Block, ...] = ()
    is_lossless: bool = True  # whether the tokens tell the text; else its bits are a lower bound: others have them, too
    num_unknown: int = 0  # scored tokens that stand for what the vocabulary lacks, and the bytes of text behind them
    unknown_bytes: int = 0
    label: str | None = None  # of a classifier: the target, the likeliest of all labels, and the nats of that
    predicted: str | None = None
    predicted_log_prob: float | None = None


SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("document", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("num_tokens", pa.int64(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("context_length", pa.int64(), nullable=False),
        pa.field("tokens_cut", pa.int64(), nullable=False),
        pa.field("log_prob", pa.float64(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("step", pa.int64()),
        pa.field("digest", pa.string(), nullable=False),
        pa.field(
            "blocks",
            pa.list_(pa.struct([("num_tokens", pa.int64()), ("num_bytes", pa.int64()), ("log_prob", pa.float64())])),
            nullable=False,
        ),
    ]
)


LOSSES = (
    pa.field("is_lossless", pa.bool_(), nullable=False),
    pa.field("num_unknown", pa.int64(), nullable=False),
    pa.field("unknown_bytes", pa.int64(), nullable=False),
)
"""Further columns, where the tokenizer lost some of the text of a row."""

LABELLED = (
    pa.field("label", pa.string(), nullable=False),
    pa.field("predicted", pa.string(), nullable=False),
    pa.field("predicted_log_prob", pa.float64(), nullable=False),
)
"""Further columns of a classifier's ledger."""


def blocks_of(log_prob: ArrayLike, num_bytes: ArrayLike) -> tuple[Block, ...]:
    """The blocks of one row, from the log-probability and the bytes of each of its scored tokens, in order."""
    nats, size = np.asarray(log_prob, dtype=np.float64), np.asarray(num_bytes, dtype=np.int64)
    starts = range(0, len(nats), BLOCK_TOKENS)
    return tuple(
        Block(
            len(nats[start : start + BLOCK_TOKENS]),
            int(size[start : start + BLOCK_TOKENS].sum()),
            exact_sum(nats[start : start + BLOCK_TOKENS]),
        )
        for start in starts
    )


TOKENS = pa.field("token_log_probs", pa.list_(pa.float32()), nullable=False)
"""A further column that a training ledger may have: nats of each target, in the order of reading."""

Table = Any  # pyarrow's


def write_ledger(path: Path, rows: Iterable[LedgerRow], metadata: Mapping[str, str]) -> None:
    """Writes a Parquet file, whole or not at all; `metadata` says what was scored, by which model, and how."""
    rows = list(rows)
    is_whole = all(row.is_lossless and not row.num_unknown for row in rows)
    is_labelled = any(row.predicted is not None for row in rows)
    schema = pa.schema([*SCHEMA, *(() if is_whole else LOSSES), *(LABELLED if is_labelled else ())])
    write_columns(path, pa.Table.from_pylist([_plain(row, schema.names) for row in rows], schema=schema), metadata)


def write_columns(path: Path, table: Table, metadata: Mapping[str, str]) -> None:
    """The same from columns: those of SCHEMA, and behind them any others."""
    words = json.dumps({**metadata, "ledger": VERSION}, ensure_ascii=False, sort_keys=True)
    write_table(path, table.replace_schema_metadata({"thetahat": words, "sha256": _digest(words, table)}))


def write_table(path: Path, table: Table) -> None:
    """Writes a pyarrow.Table as a Parquet file that appears whole or not at all."""
    texts: Any = [name for name in table.column_names if not _is_number(table.schema.field(name).type)]
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with store.replacing(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True, use_dictionary=texts)


def _is_number(kind: Any) -> bool:
    """Whether a column holds floating-point numbers: they rarely repeat, and a dictionary of them only takes time."""
    return pa.types.is_floating(kind) or (pa.types.is_list(kind) and pa.types.is_floating(kind.value_type))


def read_ledger(path: Path) -> tuple[list[LedgerRow], dict[str, str]]:
    """The rows and the metadata of a ledger; raises DataError when they are not, to the last bit, what was written."""
    table, metadata = read_columns(path)
    more = [field.name for field in (*LOSSES, *LABELLED) if field.name in table.schema.names]
    columns = table.select([*SCHEMA.names, *more]).to_pydict()
    return [_row(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)], metadata


def read_columns(path: Path) -> tuple[Table, dict[str, str]]:
    """The same as columns: much faster where there are millions of rows."""
    try:
        # a folder named a=b is no column
        table = pq.read_table(path, page_checksum_verification=True, partitioning=None)  # pyright: ignore[reportArgumentType]
        notes = table.schema.metadata or {}
        words, digest = notes.get(b"thetahat", b"").decode(), notes.get(b"sha256", b"").decode()
        metadata = json.loads(words or "{}")
        is_ledger = isinstance(metadata, dict) and "ledger" in metadata
        found = _digest(words, table) if is_ledger else ""
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", cure=did_you_mean(str(path)) or _CURE) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} is damaged, or is not a Parquet file: {error}", cure=_CURE) from error
    if not is_ledger:
        raise DataError(f"{path} is a Parquet file, but not a ledger", cure=_CURE)
    if (version := metadata.pop("ledger")) != VERSION:
        raise DataError(f"{path} is a ledger of version {version}", allowed=f"version {VERSION}", cure=_CURE)
    if list(table.schema)[: len(SCHEMA)] != list(SCHEMA) or digest != found:
        raise DataError(f"{path} is damaged: its rows are not those that were written", cure=_CURE)
    return table, metadata


def _digest(words: str, table: Table) -> str:
    """A digest of values, names and metadata, however they are encoded: Parquet's checksums cover the values only."""
    digest = hashlib.sha256(words.encode())
    for field, column in zip(table.schema, table.columns, strict=True):
        digest.update(field.name.encode())
        for values in _values(column.combine_chunks()):
            digest.update(np.int64(values.nbytes).tobytes() + values.tobytes())
    return digest.hexdigest()


def _values(column: Any) -> Iterator[NDArray[Any]]:
    """A column as arrays that determine it: which values are null, their lengths, and the numbers or bytes below."""
    yield column.is_null().to_numpy(zero_copy_only=False)
    kind = column.type
    if pa.types.is_struct(kind):
        for below in column.flatten():
            yield from _values(below)
    elif pa.types.is_list(kind):
        yield pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        yield from _values(column.flatten())
    elif pa.types.is_string(kind):
        yield pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        yield _letters(column.fill_null("").cast(pa.large_string()))
    else:
        nothing = False if pa.types.is_boolean(kind) else 0
        yield column.fill_null(nothing).to_numpy(zero_copy_only=False)


def _letters(column: Any) -> NDArray[Any]:
    """All bytes of a column of strings, joined."""
    _, edges, letters = column.buffers()
    if not len(column) or letters is None:
        return np.empty(0, dtype=np.uint8)
    first, last = np.frombuffer(edges, dtype=np.int64)[[column.offset, column.offset + len(column)]]
    return np.frombuffer(letters, dtype=np.uint8)[first:last]


def _plain(row: LedgerRow, names: list[str]) -> dict[str, Any]:
    plain = {name: getattr(row, name) for name in names}
    return plain | {"blocks": [block._asdict() for block in row.blocks]}


def _row(plain: dict[str, Any]) -> LedgerRow:
    plain["blocks"] = tuple(Block(**block) for block in plain["blocks"])
    return LedgerRow(**plain)
