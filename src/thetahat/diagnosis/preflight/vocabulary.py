"""Whether the training data has the tokens of the vocabulary."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thetahat.core.plain import counted
from thetahat.data.corpus.corpus import Corpus
from thetahat.diagnosis.finding import Finding
from thetahat.diagnosis.preflight.records import slices_of

MOST_UNUSED = 0.6  # of the tokens of several bytes: parts of other tokens alone come to 0.4 in small data


def unused_tokens(corpus: Corpus, num_bytes: NDArray[Any]) -> Iterator[Finding]:
    """Tokens of two bytes or more that the training data does not have: nothing is ever learned of their rows.

    `num_bytes` has the bytes of each token, 0 of special ones. Single bytes belong to every vocabulary of bytes. Of
    large data slices are searched, and tokens that are in none of them count as unused.
    """
    is_asked = num_bytes >= 2
    if not is_asked.any() or not len(corpus.tokens):
        return
    seen = np.zeros(len(num_bytes), np.bool_)
    slices, num_tokens = slices_of(corpus.tokens)
    for _, tokens in slices:
        seen[tokens[tokens < len(seen)]] = True
    missing, asked = int((is_asked & ~seen).sum()), int(is_asked.sum())
    if missing > MOST_UNUSED * asked:
        searched = "" if num_tokens == len(corpus.tokens) else f" ({num_tokens:,} of {len(corpus.tokens):,} searched)"
        yield Finding(
            "unused-tokens",
            f"{missing:,} of {counted(asked, 'token')} of several bytes are not in the training data{searched}: their"
            " rows stay as they were drawn, and texts take more tokens than they need",
            "a tokenizer of this text: data.tokenizer=none and a data.vocab_size that fits",
            is_wrong=False,
        )
