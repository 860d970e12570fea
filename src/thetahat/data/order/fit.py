"""How much of a text a context holds, and which context would hold nearly all of it, or all."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from thetahat.data.config import DataConfig
from thetahat.data.corpus.corpus import Corpus, Ints

NEARLY = 0.99  # of the text
MOST = 1 << 22  # positions that a context may have


@dataclass(frozen=True, slots=True)
class Fit:
    """What lies behind the first positions of its document, and which contexts would hold 99 % and all of the text."""

    key: str  # of the config
    context: int
    behind: float  # share of the text, 0 to 1
    nearly: int  # positions that hold 99 %
    whole: int  # positions that hold all

    def __str__(self) -> str:
        if not self.behind:
            return f"{self.key}={self.context} holds all of the text; {self.key}={self.whole} would be enough"
        whole = f", {self.key}={self.whole} all" if self.whole <= MOST else ""
        behind = f"{_percent(self.behind)} of the text lies behind it"
        return f"{self.key}={self.context}: {behind}; {self._nearly} holds 99%{whole}"

    @property
    def told(self) -> str:
        """What would be cut, here and at the context that holds 99 %."""
        behind = f"{_percent(self.behind)} of the text lies behind {self.key}={self.context}"
        return f"{behind}, and at most 1% behind {self._nearly}" if self.nearly < self.whole else behind

    @property
    def _nearly(self) -> str:
        return f"{self.key}={self.nearly}" if self.nearly <= MOST else f"no {self.key}"

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return asdict(self)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "less than 0.1%"


def fit_of(needed: Ints, key: str, context: int) -> Fit:
    r"""The fit of documents that need so many positions each: $n_i$.

    $\sum_i \max(n_i - C, 0) / \sum_i n_i$ lies behind a context of $C$; `nearly` is the least $C$ for which that is at
    most 1 %, `whole` is $\max_i n_i$.
    """
    total, whole = int(needed.sum()), int(needed.max(initial=1))

    def behind(positions: int) -> int:
        return int(np.maximum(needed - positions, 0).sum())

    low, high = 0, whole  # the least is above `low`, and at most `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if behind(middle) <= (1 - NEARLY) * total else (middle, high)
    return Fit(key, context, behind(context) / max(total, 1), high, whole)


def fits_of(corpus: Corpus, config: DataConfig) -> list[Fit]:
    """The fit of the context that is predicted in, and where an encoder reads for a decoder, of what that reads.

    Nothing for one document: a book is meant to be split. What was left out when the corpus was made counts too. Of a
    dialogue, that may be more than its longest turn needs, as it is the sum over its turns.
    """
    documents = np.arange(corpus.num_documents)
    if len(documents) < 2:
        return []
    if not corpus.layout.has_source:
        needed = needed_by(corpus, documents) + corpus.column["documents.prompt_cut"]
        return [fit_of(needed, "data.context", config.context)]
    is_target = corpus.column["spans.parent"] > 0
    targets = needed_by(corpus, documents) + corpus.column["documents.tokens_cut"]
    sources = _longest(corpus, ~is_target) + corpus.column["documents.prompt_cut"]
    return [
        fit_of(targets, "data.context", config.context),
        fit_of(sources, "data.source_context", config.source_room),
    ]


def needed_by(corpus: Corpus, documents: Ints) -> Ints:
    """How many positions the longest sequence of each of these documents needs, what training adds to it included."""
    layout = corpus.layout
    is_read = corpus.column["spans.parent"] > 0 if layout.has_source else np.ones(len(corpus.lengths), np.bool_)
    return np.maximum(_longest(corpus, is_read)[documents] - 1, 0) + layout.reads_last + layout.num_added


def _longest(corpus: Corpus, is_read: np.ndarray) -> Ints:
    """[documents], the end of the longest of these spans."""
    found = np.zeros(corpus.num_documents, np.int64)
    ends = corpus.column["spans.position"] + corpus.lengths
    np.maximum.at(found, corpus.column["spans.document"][is_read], ends[is_read])
    return found
