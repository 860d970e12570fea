"""What of the text of a corpus its tokens do not tell."""

from dataclasses import dataclass
from typing import final

import numpy as np

from thetahat.data.corpus.corpus import Corpus

_AT_ONCE = 1 << 24  # tokens


@final
@dataclass(frozen=True, slots=True)
class Losses:
    """Records that the tokenizer loses some text of, and unknown tokens: all zero where it loses nothing."""

    records: int
    num_records: int  # in all
    unknown_tokens: int
    unknown_bytes: int  # of text, behind these

    def __str__(self) -> str:
        if not self.records and not self.unknown_tokens:
            return ""
        lost = f"the tokenizer loses some of the text of {self.records:,} of {self.num_records:,} records, of which "
        lost += "bits per byte are a lower bound"
        unknown = f"{self.unknown_tokens:,} unknown tokens stand for {self.unknown_bytes:,} bytes of text"
        return f"{lost}; {unknown}" if self.unknown_tokens else lost


def losses_of(corpus: Corpus) -> Losses:
    """Prompts, too, are counted."""
    lossy = corpus.column["parts.document"][~corpus.column["parts.is_lossless"]]
    unknown = unknown_bytes = 0
    for start in range(0, len(corpus.tokens) if corpus.symbols.unknown is not None else 0, _AT_ONCE):
        place = np.arange(start, min(start + _AT_ONCE, len(corpus.tokens)))
        found = place[corpus.is_unknown(place)]
        unknown += len(found)
        unknown_bytes += int(corpus.bytes_at(found).sum())
    return Losses(len(np.unique(lossy)), corpus.num_documents, unknown, unknown_bytes)
