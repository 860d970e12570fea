"""How the tokens of a record lie in its sequences."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """One way, and all that reading, planning and scoring need to know of it."""

    name: str  # part of the key of a cache
    is_whole: bool = False  # every token of a piece is read at once; else a position reads what comes before its target
    has_source: bool = False  # what is given lies in a span of its own, which an encoder reads for a decoder
    reads_end: bool = False  # the <|endoftext|> that closes a text is read, and is no target
    predicts_label: bool = False  # the last token is the index of a label, and the only target
    num_added: int = 0  # tokens that training puts into a text, for which its row keeps room

    @property
    def is_one_stream(self) -> bool:
        """Whether a record is its tokens one behind the other: layouts of which that is true can share a cache."""
        return not (self.has_source or self.predicts_label)

    @property
    def reads_last(self) -> bool:
        """Whether the last token of a piece is read at a position of its own; a label is not read."""
        return self.is_whole and not self.predicts_label


STREAM = Layout("stream")
"""Everything one behind the other, read from the left: `<|endoftext|>`, text, `<|endoftext|>`."""

WHOLE = Layout("whole", is_whole=True, reads_end=True)
"""The same tokens, all of which are read at once."""

PAIR = Layout("pair", has_source=True)
"""What is given in one span, which an encoder reads, and the targets in another, which a decoder writes."""

LABEL = Layout("label", is_whole=True, predicts_label=True)
"""The text, and behind it the index of its label."""
