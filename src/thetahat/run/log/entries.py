"""Rows of a training ledger as numbers; the names come from the corpus when the rows are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64

from thetahat.data.corpus.corpus import Corpus, digests_of
from thetahat.data.order.pack import enumerate_counts
from thetahat.ledger.ledger import SCHEMA, TOKENS, Table

# pyright: reportUnknownParameterType=false

STEP, NUMBER, WEIGHT, NUM_TOKENS, NUM_BYTES, LOG_PROB = range(6)  # columns; NUMBER is the part's in its corpus


@dataclass(frozen=True, slots=True)
class Entries:
    """The rows of some micro-batches, one for each part in each of them; and the nats of each target, if kept."""

    numbers: Float64[np.ndarray, "n 6"]
    tokens: Float32[np.ndarray, " N"]  # as many as NUM_TOKENS says, row by row; or none


@final
class Waiting:
    """Rows that wait to be written, in two arrays that are made twice as long when they are full.

    Arrays of a row or two would lie scattered among the large ones that a step makes and frees. The C library could
    not join what is free around them, and the process would grow with every step.
    """

    def __init__(self) -> None:
        self._numbers, self._tokens = np.empty((1024, 6)), np.empty(1024, np.float32)
        self._num_rows = self._num_tokens = 0

    @property
    def entries(self) -> Entries:
        """All of them; the arrays are views, which the next `append` may change."""
        return Entries(self._numbers[: self._num_rows], self._tokens[: self._num_tokens])

    def append(self, entries: Entries) -> None:
        """Copies further rows behind the others."""
        first, others = self._num_rows, self._num_tokens
        self._num_rows, self._num_tokens = first + len(entries.numbers), others + len(entries.tokens)
        self._numbers, self._tokens = _long(self._numbers, self._num_rows), _long(self._tokens, self._num_tokens)
        self._numbers[first : self._num_rows], self._tokens[others : self._num_tokens] = entries.numbers, entries.tokens


def _long(array: np.ndarray, length: int) -> np.ndarray:
    """The array itself where it has this length, else a copy that is at least twice as long."""
    if length <= len(array):
        return array
    longer = np.empty((max(2 * len(array), length), *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


def joined(entries: Sequence[Entries]) -> Entries:
    """All of them, joined."""
    numbers = [np.empty((0, 6)), *(one.numbers for one in entries)]
    return Entries(np.concatenate(numbers), np.concatenate([np.empty(0, np.float32), *(one.tokens for one in entries)]))


def merged(entries: Entries) -> Entries:
    """One row for each step and part, in this order; a part may have been read in several micro-batches."""
    numbers = entries.numbers
    order = np.lexsort((numbers[:, NUMBER], numbers[:, STEP]))  # stable: pieces stay in the order of reading
    ranked = numbers[order]
    if not len(ranked):
        return entries
    starts = np.flatnonzero(np.any(np.diff(ranked[:, [STEP, NUMBER]], axis=0, prepend=-1) != 0, axis=1))
    whole = ranked[starts]
    for column in (NUM_TOKENS, NUM_BYTES, LOG_PROB):
        whole[:, column] = np.add.reduceat(ranked[:, column], starts)
    if not len(entries.tokens):
        return Entries(whole, entries.tokens)
    counts = numbers[:, NUM_TOKENS].astype(np.int64)
    row, place = enumerate_counts(counts[order])
    return Entries(whole, entries.tokens[(np.cumsum(counts) - counts)[order][row] + place])


def columns_of(entries: Entries, corpus: Corpus, context: int, *, with_tokens: bool) -> Table:
    """The columns of a ledger, with the names looked up for all rows at once."""
    numbers = entries.numbers
    counted = {name: numbers[:, i].astype(np.int64) for name, i in _COUNTS.items()}
    number, count = counted.pop("number"), len(numbers)
    known, record = np.unique(corpus.column["parts.document"][number], return_inverse=True)
    documents, parts = corpus.documents.take(pa.array(known)), corpus.tables["parts"].take(pa.array(number))
    columns = {name: documents[name].take(pa.array(record)).cast(pa.string()) for name in ("id", "document", "source")}
    digests = pa.array(digests_of(documents["digest"]), pa.string())
    columns |= {"part": parts["name"].cast(pa.string()), "role": parts["role"].cast(pa.string())}
    columns |= counted | {"context_length": np.full(count, context), "tokens_cut": np.zeros(count, np.int64)}
    columns |= {
        "log_prob": numbers[:, LOG_PROB],
        "weight": numbers[:, WEIGHT],
        "digest": digests.take(pa.array(record)),
    }
    none = pa.array([], SCHEMA.field("blocks").type.value_type)
    columns |= {"blocks": pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), none)}
    if not with_tokens:
        return pa.table(columns, schema=SCHEMA)
    edges = np.concatenate([[0], np.cumsum(counted["num_tokens"])]).astype(np.int32)
    columns |= {TOKENS.name: pa.ListArray.from_arrays(pa.array(edges), pa.array(entries.tokens))}
    return pa.table(columns, schema=SCHEMA.append(TOKENS))


_COUNTS = {"step": STEP, "number": NUMBER, "num_tokens": NUM_TOKENS, "num_bytes": NUM_BYTES}
