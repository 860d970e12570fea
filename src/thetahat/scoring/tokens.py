"""A Parquet file with a row for every target: which token, where it stands, how much it could see, how likely it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from thetahat.data.corpus.corpus import Corpus
from thetahat.ledger.ledger import LedgerRow, write_table
from thetahat.scoring.likelihood import Likelihoods, bytes_of

TOKEN_SCHEMA = pa.schema(
    {
        "id": pa.dictionary(pa.int32(), pa.string()),  # of the record
        "part": pa.dictionary(pa.int32(), pa.string()),
        "position": pa.int64(),  # tokens of the part before it
        "byte": pa.int64(),  # bytes of the part before it
        "num_bytes": pa.int64(),
        "token": pa.int64(),  # its id in the vocabulary, or the index of its label
        "context_length": pa.int64(),  # tokens that it could see
        "log_prob": pa.float64(),  # nats, before any weight
    }
)
"""The columns, in this order; none is ever null."""


def token_table(likelihoods: Likelihoods, corpus: Corpus, rows: list[LedgerRow]) -> Any:
    """The pyarrow.Table of all targets, in the order of the ledger's rows to which they belong."""
    sizes = np.diff(likelihoods.start)
    position = np.arange(len(likelihoods.tokens)) - np.repeat(likelihoods.start[:-1], sizes)
    token = corpus.tokens[likelihoods.tokens].astype(np.int64)
    num_bytes = bytes_of(likelihoods, corpus)
    before = np.cumsum(num_bytes) - num_bytes
    byte = before - np.repeat(before[likelihoods.start[:-1]], sizes)
    row = np.repeat(np.arange(len(rows), dtype=np.int32), sizes)
    columns = [
        pa.DictionaryArray.from_arrays(row, [one.id for one in rows]),
        pa.array([one.part for one in rows]).dictionary_encode().take(pa.array(row)),
        position,
        byte,
        num_bytes,
        token,
        likelihoods.context_length,
        likelihoods.token_log_prob,
    ]
    return pa.table(dict(zip(TOKEN_SCHEMA.names, columns, strict=True)), schema=TOKEN_SCHEMA)


def write_tokens(path: Path, table: Any, metadata: Mapping[str, str]) -> None:
    """Writes the file, whole or not at all, with the metadata of the ledger beside it."""
    write_table(path, table.replace_schema_metadata({"thetahat": json.dumps(dict(metadata), sort_keys=True)}))
