"""A declared part of a corpus: so many of its documents, always the same ones."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thetahat.data.corpus.corpus import TEXTS, Corpus, Table

_KEY = b"evaluation"  # another one than that of data.held_out=hash:F, whose choice this must not repeat


def chosen_documents(documents: Sequence[str], digests: Sequence[bytes], count: int) -> set[str]:
    """The names of `count` of the documents, or of all if there are no more.

    Chosen are those with the smallest number, which a document has from the digests of its records as they were
    written, hashed with a key of ours: a function of what is in the documents, not of their order, files or ranks.
    """
    number: dict[str, bytes] = {}
    for document, digest in zip(documents, digests, strict=True):
        found = hashlib.blake2b(digest, digest_size=8, key=_KEY).digest()
        number[document] = min(found, number.get(document, found))
    return set(sorted(number, key=lambda document: (number[document], document))[:count])


def part_of_corpus(corpus: Corpus, count: int) -> Corpus:
    """The `chosen_documents` of a corpus as a corpus; itself if it has no more. Other tokens are not read."""
    names, digests = (corpus.documents[name].to_pylist() for name in ("document", "digest"))
    chosen = chosen_documents(names, digests, count)
    is_kept = np.array([name in chosen for name in names])
    return corpus if is_kept.all() else only(corpus, is_kept)


def only(corpus: Corpus, is_kept: NDArray[np.bool_]) -> Corpus:
    """The records that are kept, with numbers of their own."""
    column = corpus.column
    parts, spans = is_kept[column["parts.document"]], is_kept[column["spans.document"]]
    document, part = np.cumsum(is_kept) - 1, np.cumsum(parts) - 1
    length, start = corpus.lengths[spans], corpus.offsets[:-1][spans]
    place = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    token = np.repeat(start, length) + place
    part_of_token = part[corpus.part_of(token)]
    is_start = (place == 0) | (np.diff(part_of_token, prepend=-1) != 0)
    first = np.flatnonzero(is_start)
    sequence = np.unique(column["spans.sequence"][spans], return_inverse=True)[1]
    kept = {"documents": is_kept, "parts": parts, "spans": spans}
    numbers = {name: values[kept[table]] for name, values in column.items() if (table := name.split(".")[0]) in kept}
    numbers["parts.document"] = document[numbers["parts.document"]]
    numbers |= {"spans.document": document[numbers["spans.document"]], "spans.sequence": sequence}
    numbers |= {"segments.start": first, "segments.part": part_of_token[first]}
    texts = {name: corpus.tables[name].filter(pa.array(kept[name])).combine_chunks() for name in TEXTS}
    return replace(
        corpus,
        tokens=corpus.tokens[token],
        tables={name: table.drop_columns(_numbers(table)) for name, table in texts.items()},
        fingerprint=f"{corpus.fingerprint}/{int(is_kept.sum())}",
        sizes=None if corpus.sizes is None else corpus.sizes[token],
        numbers=numbers,
    )


def _numbers(table: Table) -> list[str]:
    """The columns of a table that are numbers, which a corpus has beside it."""
    return [field.name for field in table.schema if field.type in {pa.int64(), pa.float64(), pa.bool_()}]
