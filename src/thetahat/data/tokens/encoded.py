"""A record as token ids: what every format becomes before it is kept in a corpus."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from thetahat.core.special import Frame


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """A part of a record, which gets a row of its own in a ledger when it has targets."""

    name: str  # document, prompt, completion, turn-3, ...
    role: str = ""
    weight: float = 1.0  # what the message asked for; the record's own comes on top
    is_prompt: bool = False  # a condition: read, never predicted
    num_bytes: int | None = None  # of text; None: those of its tokens
    sizes: tuple[int, ...] | None = None  # bytes of each of its tokens; None: those of the tokenizer's table
    is_lossless: bool = True  # whether the tokens tell its text, to the byte


@dataclass(frozen=True, slots=True)
class Span:
    """Contiguous tokens of one sequence: an edge of its tree.

    The first token is the last one of the parent once more, at the same position, or stands at the very beginning: it
    is read, so that the second can be predicted, and is no target itself.
    """

    tokens: tuple[int, ...]
    part: tuple[int, ...]  # of each token, index in `Encoded.parts`
    parent: int = -1  # index in the sequence's spans, before this one; -1: none
    position: int = 0  # of the first token, from the beginning of its path


@dataclass(frozen=True, slots=True)
class Encoded:
    """One record: its parts, and one or more sequences, each of which must lie in one row.

    Most sequences are a single span. A dialogue whose template renders history otherwise than the live turn, or that
    has several answers to one prompt, is a tree: spans that share what is common, each token asked once.
    """

    parts: tuple[EncodedPart, ...]
    sequences: tuple[tuple[Span, ...], ...]
    tokens_cut: int = 0  # asked for by the record, and left out by the policy
    prompt_cut: int = 0  # of its conditions, left out by the policy
    notes: tuple[str, ...] = field(default=())  # what a person should know about this record


def target_span(frame: Frame, targets: Sequence[int], parts: tuple[int, int]) -> Span:
    """What a decoder reads and writes behind a source: of what stands before the targets only the first has no part."""
    _, *given = frame.before
    part = (parts[1], *(parts[0],) * len(given), *(parts[1],) * len(targets))
    return Span((*frame.before, *targets), part, parent=0)
