"""Special tokens: what stands around a text, and the names of those that factorizations need."""

from collections.abc import Iterable
from dataclasses import dataclass

MASK = "<|mask|>"  # read in place of a token that is the target
SENTINEL = "<|sentinel-{}|>"  # read in place of the first, second, ... span that is left out


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands before a text, which is read and never a target, and what stands behind it and ends it."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def around(self, ids: Iterable[int]) -> list[int]:
        """The ids of a text in this frame."""
        return [*self.before, *ids, *self.after]


@dataclass(frozen=True, slots=True)
class Frames:
    """The frame of a text by who reads it."""

    text: Frame  # a decoder or an encoder alone: at least one token on each side
    source: Frame  # an encoder, for a decoder
    target: Frame  # that decoder: begins with the token that it starts from
