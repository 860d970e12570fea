"""Whether the training data repeats itself, in whole records or in n-grams, and whether texts are almost empty."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thetahat.core.plain import counted
from thetahat.data.corpus.corpus import Corpus
from thetahat.diagnosis.finding import Finding

MOST_TOKENS = 2**22  # that are searched for repeated n-grams
SLICES = 64  # in which they lie, if there are more
LONGEST_PERIOD, LEAST_REPEATS = 13, 32  # of a repeated n-gram, as OLMo-core filters them
LEAST_TARGETS = 3  # of a text, its end included
LEAST_SHARE = 0.01  # of records or tokens, from which on it is said

Tokens = NDArray[Any]


def records(corpus: Corpus) -> Iterator[Finding]:
    """What of the training data should be looked at."""
    yield from duplicates(corpus)
    yield from repeats(corpus)
    yield from near_empty(corpus)


def duplicates(corpus: Corpus) -> Iterator[Finding]:
    """Records that are word for word another one."""
    if corpus.num_documents < 2:
        return
    counts: Any = corpus.documents["digest"].value_counts()
    numbers = counts.field("counts").to_numpy()
    copies, most = int((numbers - 1).sum()), int(numbers.max())
    if copies >= LEAST_SHARE * corpus.num_documents:
        yield Finding(
            "duplicates",
            f"{copies:,} of {counted(corpus.num_documents, 'record')} ({copies / corpus.num_documents:.0%}) are word"
            f" for word another one; the most frequent is there {most:,} times",
            "remove copies: what is repeated is learned by heart at the cost of the rest",
            is_wrong=False,
        )


def repeats(corpus: Corpus) -> Iterator[Finding]:
    """Stretches in which up to 13 tokens are repeated at least 32 times, in the corpus or in slices of it."""
    slices, num_tokens = slices_of(corpus.tokens)
    found = [(start, repeated(tokens)) for start, tokens in slices]
    count = sum(int(where.sum()) for _, where in found)
    if num_tokens and count >= LEAST_SHARE * num_tokens:
        start, where = next((start, where) for start, where in found if where.any())
        place = start + int(where.argmax())
        span = int(np.searchsorted(corpus.offsets, place, side="right")) - 1
        of = f"of {num_tokens:,} tokens" + ("" if num_tokens == len(corpus.tokens) else f" ({SLICES} slices) searched")
        yield Finding(
            "repeated-n-grams",
            f"{count / num_tokens:.1%} {of} repeat at most {LONGEST_PERIOD} tokens at least {LEAST_REPEATS} times,"
            f" first in {corpus.name_of(span)}",
            "remove such stretches, or records that are made of them",
            is_wrong=False,
        )


def near_empty(corpus: Corpus) -> Iterator[Finding]:
    """Texts with hardly a target; of records with a prompt a short answer is an answer."""
    is_prompt = corpus.column["parts.is_prompt"]
    if corpus.layout.predicts_label or is_prompt.any():
        return
    targets = np.bincount(corpus.column["parts.document"], corpus.part_tokens, corpus.num_documents)
    short = np.flatnonzero(targets < LEAST_TARGETS)
    if len(short) and len(short) >= LEAST_SHARE * corpus.num_documents:
        name = corpus.documents["id"][int(short[0])].as_py()
        yield Finding(
            "near-empty-records",
            f"{len(short):,} of {counted(corpus.num_documents, 'record')} have fewer than {LEAST_TARGETS} targets, the"
            f" first of them {name}",
            "remove them, or look at data.split_on if texts were cut in the wrong places",
            is_wrong=False,
        )


def repeated(tokens: Tokens) -> NDArray[np.bool_]:
    r"""Which tokens lie in a stretch of period p <= 13 that is at least 32 p long.

    For each p the places where $x_i = x_{i-p}$ are runs; a run of at least 31 p of them, with the p tokens before it,
    is such a stretch.
    """
    change = np.zeros(len(tokens) + 1, np.int64)
    for period in range(1, LONGEST_PERIOD + 1):
        if len(tokens) < LEAST_REPEATS * period:
            break
        same = np.concatenate([[False], tokens[period:] == tokens[:-period], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        starts, stops = edges[::2], edges[1::2]
        is_long = stops - starts >= (LEAST_REPEATS - 1) * period
        np.add.at(change, starts[is_long], 1)
        np.add.at(change, stops[is_long] + period, -1)
    return np.cumsum(change[:-1]) > 0


def slices_of(tokens: Tokens) -> tuple[list[tuple[int, Tokens]], int]:
    """All tokens, or evenly spaced slices, with their places; and how many tokens these are."""
    if len(tokens) <= MOST_TOKENS:
        return [(0, np.asarray(tokens))], len(tokens)
    size = MOST_TOKENS // SLICES
    starts = np.linspace(0, len(tokens) - size, SLICES).astype(np.int64).tolist()
    return [(start, np.asarray(tokens[start : start + size])) for start in starts], MOST_TOKENS
