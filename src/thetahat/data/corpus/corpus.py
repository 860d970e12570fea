"""Records as token ids, in memory or mapped from a cache that is never stale."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from pyarrow import compute

from thetahat.core.batch import Symbols
from thetahat.core.layout import STREAM, Layout
from thetahat.core.parts import Part
from thetahat.data.corpus.schemas import SCHEMAS as SCHEMAS
from thetahat.data.read.form.shape import OWN

Ints = NDArray[np.int64]
Table = Any  # pyarrow's


@final
@dataclass(frozen=True)
class Corpus:
    """Every record as token ids; read-only, in the order of the data. A text is one part, one sequence and one span."""

    tokens: NDArray[Any]  # all spans, one behind the other
    tables: dict[str, Table]  # of SCHEMAS; of a mapped corpus the texts alone
    symbols: Symbols
    token_bytes: Ints  # [V], of text behind each id
    fingerprint: str
    layout: Layout = STREAM
    sizes: NDArray[np.uint32] | None = None  # bytes behind each token; None: everywhere those of `token_bytes`
    numbers: Mapping[str, NDArray[Any]] | None = None  # the others by `table.name`; None: they are in `tables`
    lengths: Ints = field(init=False)  # [spans], the first token included, which is never asked
    offsets: Ints = field(init=False)  # [spans + 1], where each begins in `tokens`

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", self.column["spans.length"])
        offsets = np.zeros(len(self.lengths) + 1, np.int64)
        np.cumsum(self.lengths, out=offsets[1:])
        object.__setattr__(self, "offsets", offsets)

    @property
    def documents(self) -> Table:
        """One row a record."""
        return self.tables["documents"]

    @property
    def num_documents(self) -> int:
        """How many records there are."""
        return len(self.documents)

    @property
    def num_clusters(self) -> int:
        """How many documents there are: records that share one count once."""
        return len(self.documents["document"].unique())

    @property
    def num_parts(self) -> int:
        """How many parts its records have, prompts included."""
        return len(self.column["parts.document"])

    @cached_property
    def column(self) -> Mapping[str, NDArray[Any]]:
        """The numbers of the tables by `table.name`."""
        if self.numbers is not None:
            return self.numbers
        return {
            f"{table}.{name}": self.tables[table][name].to_numpy() for table in _NUMBERS for name in _NUMBERS[table]
        }

    @cached_property
    def _texts(self) -> dict[str, Table]:
        """What names a document."""
        return {name: _whole(self.documents[name]) for name in ("id", "document", "source")}

    @cached_property
    def _names(self) -> dict[str, tuple[list[str], NDArray[Any]]]:
        """The few names and roles that parts have, and which of them each has."""
        columns = {name: _whole(self.tables["parts"][name]) for name in ("name", "role")}
        return {name: (column.dictionary.to_pylist(), column.indices.to_numpy()) for name, column in columns.items()}

    @cached_property
    def part_tokens(self) -> Ints:
        """[parts], how many targets each has where nothing is cut; of a prompt, how many tokens are read."""
        found = np.zeros(self.num_parts, np.int64)
        for start in range(0, len(self.lengths), _AT_ONCE):
            spans = np.arange(start, min(start + _AT_ONCE, len(self.lengths)))
            part, count = self._counts(spans, np.ones_like(spans), self.lengths[spans])
            if len(part):
                low = part.min()
                counts = np.bincount(part - low, count).astype(np.int64)
                found[low : low + len(counts)] += counts
        return found

    @cached_property
    def num_tokens(self) -> int:
        """The number of targets of a causal model, the end of each text included."""
        return int(np.sum(self.part_tokens, where=~self.column["parts.is_prompt"]))

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the targets."""
        return int(np.sum(self.column["parts.num_bytes"], where=~self.column["parts.is_prompt"]))

    @property
    def holds_dialogues(self) -> bool:
        """Whether any part is a turn of somebody."""
        names, which = self._names["role"]
        return any(name and (which == index).any() for index, name in enumerate(names))

    @property
    def reads_parts_together(self) -> bool:
        """Whether a sequence has targets in several parts, as a dialogue whose turns are read in one pass."""
        num_parts = np.count_nonzero(self.part_tokens[~self.column["parts.is_prompt"]])
        return bool(num_parts > np.count_nonzero(np.diff(self.column["spans.sequence"], prepend=-1)))

    def span(self, index: int) -> Ints:
        """The ids of a span."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)

    def part_of(self, place: Ints) -> Ints:
        """The part of each token, by its place in `tokens`."""
        return self.column["segments.part"][np.searchsorted(self.column["segments.start"], place, side="right") - 1]

    def targets_in(self, span: Ints, first: Ints, stop: Ints) -> Ints:
        """How many of the tokens `first` to `stop` (exclusive) of each of these spans are targets."""
        piece, part, count = self._overlaps(span, first, stop)
        return np.bincount(piece, count * ~self.column["parts.is_prompt"][part], len(span)).astype(np.int64)

    def count_by_part(self, span: Ints, first: Ints, stop: Ints) -> Ints:
        """[parts], how many of the tokens `first` to `stop` (exclusive) of these spans belong to each part."""
        part, count = self._counts(span, first, stop)
        return np.bincount(part, count, self.num_parts).astype(np.int64)

    def _counts(self, span: Ints, first: Ints, stop: Ints) -> tuple[Ints, Ints]:
        return self._overlaps(span, first, stop)[1:]

    def _overlaps(self, span: Ints, first: Ints, stop: Ints) -> tuple[Ints, Ints, Ints]:
        """Of each segment in which these tokens lie: whose tokens they are (an index of `span`), its part, how many."""
        low, high = self.offsets[span] + first, self.offsets[span] + stop
        starts = self.column["segments.start"]
        begin = np.searchsorted(starts, low, side="right") - 1
        counts = np.maximum(np.searchsorted(starts, high, side="left") - begin, 0)
        piece = np.repeat(np.arange(len(span)), counts)
        segment = np.repeat(begin - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        after = np.minimum(segment + 1, len(starts) - 1)
        ends = np.where(segment + 1 < len(starts), starts[after], len(self.tokens))
        overlap = np.minimum(high[piece], ends) - np.maximum(low[piece], starts[segment])
        return piece, self.column["segments.part"][segment], np.maximum(overlap, 0)

    def part_of_it(self, first: int, last: int) -> "Corpus":
        """The documents `first` to `last` (exclusive) as a corpus, with numbers of their own; nothing is copied."""
        column = self.column
        part, span = (np.searchsorted(column[f"{name}.document"], [first, last]) for name in ("parts", "spans"))
        token = self.offsets[span]
        rows = {"documents": (first, last), "parts": part, "spans": span}
        rows["segments"] = np.searchsorted(column["segments.start"], token)
        base = {"parts.document": first, "spans.document": first, "segments.part": part[0], "segments.start": token[0]}
        if span[1] > span[0]:
            base["spans.sequence"] = column["spans.sequence"][span[0]]
        numbers = {name: values[slice(*rows[name.split(".")[0]])] for name, values in column.items()}
        numbers |= {name: numbers[name] - before for name, before in base.items()}
        texts = {name: self.tables[name].slice(rows[name][0], rows[name][1] - rows[name][0]) for name in TEXTS}
        tokens = slice(*token)
        sizes = None if self.sizes is None else self.sizes[tokens]
        changed = {"tokens": self.tokens[tokens], "tables": texts, "sizes": sizes, "numbers": numbers}
        return replace(self, **changed)

    def name_of(self, span: int) -> str:
        """The id of the record that a span belongs to."""
        return self.documents["id"][int(self.column["spans.document"][span])].as_py()

    def describe(self, number: Sequence[int] | Ints) -> list[Part]:
        """These parts by name: for rows of ledgers and for errors, never for a step."""
        index = np.asarray(number, dtype=np.int64)
        document = self.column["parts.document"][index]
        texts = [column.take(document).to_pylist() for column in self._texts.values()]
        for known, which in self._names.values():
            texts.append([known[place] for place in which[index].tolist()])
        weight = self.column["documents.weight"][document] * self.column["parts.weight"][index]
        return list(map(Part, *texts, weight.tolist(), index.tolist()))

    def bytes_at(self, place: Ints) -> Ints:
        """UTF-8 bytes of the text behind each token, by its place in `tokens`; none behind a label."""
        if not self.layout.predicts_label:
            return self._sizes(place)
        is_prompt = self.column["parts.is_prompt"][self.part_of(place)]
        found = np.zeros(len(place), np.int64)
        found[is_prompt] = self._sizes(place[is_prompt])  # a label's index is no token
        return found

    def _sizes(self, place: Ints) -> Ints:
        if self.sizes is not None:
            return self.sizes[place].astype(np.int64)
        return self.token_bytes[self.tokens[place].astype(np.int64)]

    def is_unknown(self, place: Ints) -> NDArray[np.bool_]:
        """Whether each token stands for text that the vocabulary lacks."""
        unknown = -1 if self.symbols.unknown is None else self.symbols.unknown
        found = self.tokens[place] == unknown
        if self.layout.predicts_label:  # a label's index is no token
            found &= self.column["parts.is_prompt"][self.part_of(place)]
        return found

    def digests(self, index: Ints) -> list[str]:
        """Of the record to which each part belongs, as it was written: the same for every tokenizer."""
        return digests_of(self.documents["digest"].take(self.column["parts.document"][index]))


_NAMES = 8  # of fields that are not read, in a line
_AT_ONCE = 1 << 20  # spans
TEXTS = ("documents", "parts")  # tables in which there are some
_NUMBERS = {
    "documents": ("weight", "tokens_cut", "prompt_cut"),
    "parts": ("document", "weight", "is_prompt", "num_bytes", "is_lossless"),
    "spans": ("document", "sequence", "parent", "position", "length"),
    "segments": ("start", "part"),
}


def _whole(column: Table) -> Table:
    """A column in one chunk, which is quicker to look into."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


_OF_ONE = re.compile(r"^turn-[\d.]+: | \(\d+ of \d+\)$")  # what stands in a note of one record alone


def digests_of(column: Table) -> list[str]:
    """Digests of records, as the tables hold them, in the letters in which a ledger does."""
    return [digest.hex() for digest in column.to_pylist()]


def shared_documents(ours: Corpus, theirs: Corpus, by: str = "digest") -> list[str]:
    """The ids of our records whose very text is among theirs: where it is not empty, a held-out set leaks.

    With `by="folded"`, those that ask the same first but for case and blanks; with `by="document"`, those of the same
    document.
    """
    is_shared = compute.is_in(ours.documents[by], theirs.documents[by].combine_chunks())  # pyright: ignore[reportAttributeAccessIssue]
    return ours.documents["id"].filter(is_shared).to_pylist()


@dataclass(frozen=True, slots=True)
class Reading:
    """How records were read, and of what in them nothing was read; each with the number of records."""

    forms: dict[str, int]
    unread: dict[str, int]

    def lines(self) -> list[str]:
        """The same in words; that all records have the same form, one of ours, need not be said."""
        plain = len(self.forms) == 1 and self.forms.keys() <= OWN.keys()
        told = [f"{count:,} record{'s' * (count > 1)} read as {form}" for form, count in self.forms.items()]
        names = [f"{name!r} (in {count:,})" for name, count in list(self.unread.items())[:_NAMES]]
        more = f" and {len(self.unread) - _NAMES:,} names more" if len(self.unread) > _NAMES else ""
        return ([] if plain else told) + ([f"not read in records: {', '.join(names)}{more}"] if names else [])


def reading_of(corpus: Corpus) -> Reading:
    """How the records of a corpus were read."""
    counts = {name: Counter[str]() for name in ("read_as", "unread")}
    for name, counter in counts.items():
        for found in corpus.documents[name].value_counts().to_pylist():
            for line in found["values"].split("\n") if found["values"] else ():
                counter[line] += found["counts"]
    return Reading(*(dict(counter.most_common()) for counter in counts.values()))


def note_counts(corpus: Corpus) -> dict[str, int]:
    """What is to be said of records, and of how many of them; without the name of a turn and the numbers in it."""
    found = corpus.documents["notes"].value_counts().to_pylist()
    counts = Counter[str]()
    for notes, count in ((one["values"], one["counts"]) for one in found if one["values"]):
        for note in {_OF_ONE.sub("", line) for line in notes.split("\n")}:
            counts[note] += count
    return dict(counts.most_common())
