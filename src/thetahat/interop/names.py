"""Which of their tensors is which of our parameters, and how several of ours are one of theirs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from thetahat.core.errors import ModelError
from thetahat.model.config import LatentMixer, ModelConfig

Storage = Literal["rows", "transposed", "heads", "row", "rotary", "rotary_heads"]
_NUMBER = re.compile(r"(?<=\bblocks\.)\d+(?=\.)|(?<=\bexperts\.)\d+(?=\.)")


@final
@dataclass(frozen=True)
class Link:
    """A module of theirs, and of ours: one, or several whose parameters are joined.

    `*` is the number of a layer, and a second one that of an expert.

    `rows`: ours, one below the other. `transposed`: so, and matrices are [in, out]. `heads`: row blocks in turn, a
    head at a time. `row`: a vector [V] of ours is [1 V] of theirs. `rotary`: what is rotated stands last in theirs, in
    pairs of neighbours, and first in ours, in halves; `rotary_heads`: so in each head. Where the name of ours ends in
    weight or bias, it is a parameter and no module, and so is theirs.
    """

    theirs: str
    ours: str | tuple[str, ...]
    stored: Storage = "rows"
    without: str = ""  # a module of ours, beside which this link does not hold
    keeps_dtype: bool = False  # in files, whatever the dtype of the others


@final
@dataclass(frozen=True)
class Entry:
    """One tensor of theirs."""

    theirs: str
    ours: tuple[str, ...]
    rows: tuple[int, ...]  # of each of ours
    shape: tuple[int, ...]  # of theirs
    stored: Storage
    num_heads: int
    keeps_dtype: bool = False
    rotary_width: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether it is one of ours as it is."""
        return self.stored == "rows" and len(self.ours) == 1

    @property
    def num_rotated(self) -> int:
        """How many times something that is rotated stands in it."""
        return {"rotary": 1, "rotary_heads": self.num_heads}.get(self.stored, 0)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Ours, as views of theirs where that is possible."""
        if self.stored == "transposed":
            tensor = tensor.t() if tensor.ndim == 2 else tensor
        elif self.stored == "heads":
            by_head = tensor.unflatten(0, (self.num_heads, len(self.ours), -1))
            tensor = by_head.transpose(0, 1).flatten(0, 2)
        elif self.stored == "row":
            tensor = tensor[0]
        elif self.num_rotated:
            by_part = tensor.unflatten(0, (self.num_rotated, -1))
            plain, pairs = by_part.split([by_part.shape[1] - self.rotary_width, self.rotary_width], 1)
            tensor = torch.cat([pairs[:, 0::2], pairs[:, 1::2], plain], 1).flatten(0, 1)
        return list(tensor.split(self.rows))

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Theirs, of ours."""
        joined = torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]
        if self.stored == "transposed":
            return joined.t() if joined.ndim == 2 else joined
        if self.stored == "heads":
            by_part = joined.unflatten(0, (len(self.ours), self.num_heads, -1))
            return by_part.transpose(0, 1).flatten(0, 2)
        if self.num_rotated:
            by_part = joined.unflatten(0, (self.num_rotated, -1))
            halves, plain = by_part.split([self.rotary_width, by_part.shape[1] - self.rotary_width], 1)
            pairs = halves.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
            return torch.cat([plain, pairs], 1).flatten(0, 1)
        return joined[None] if self.stored == "row" else joined


def entries_of(links: Iterable[Link], shapes: Mapping[str, tuple[int, ...]], config: ModelConfig) -> list[Entry]:
    """Every tensor of theirs for a model of this config, whose parameters have these names and shapes."""
    widths = {mixer.rotary_width for mixer in config.layers if isinstance(mixer, LatentMixer)}
    found = entries(links, shapes, config.num_heads)
    return [replace(entry, rotary_width=next(iter(widths))) if entry.num_rotated else entry for entry in found]


def entries(links: Iterable[Link], shapes: Mapping[str, tuple[int, ...]], num_heads: int) -> list[Entry]:
    """Every tensor of theirs for a model whose parameters have these names and shapes.

    Raises ModelError where a parameter has no place in the family.
    """
    listed = [(link, (link.ours,) if isinstance(link.ours, str) else link.ours) for link in links]
    modules = {_numbered(name)[1].rpartition(".")[0] for name in shapes}
    firsts = {ours[0]: (link, ours) for link, ours in listed if link.without not in modules}
    others = {name for _, ours in listed for name in ours[1:]}
    found: list[Entry] = []
    for name in shapes:
        numbers, pattern = _numbered(name)
        module, _, leaf = pattern.rpartition(".")
        if {pattern, module} & others:
            continue
        if pattern in firsts:
            (link, ours), suffix = firsts[pattern], ("", "")
        elif module in firsts:
            (link, ours), suffix = firsts[module], (f".{leaf}", ".bias" if leaf == "bias" else ".weight")
        else:
            raise ModelError(f"{name} has no place in this family of models")
        joined = tuple(_filled(f"{each}{suffix[0]}", numbers) for each in ours)
        found.append(_entry(link, _filled(f"{link.theirs}{suffix[1]}", numbers), joined, shapes, num_heads))
    return found


def _numbered(name: str) -> tuple[list[str], str]:
    """The numbers of the layer and of the expert that a parameter belongs to, and the name with `*` in their places."""
    return _NUMBER.findall(name), _NUMBER.sub("*", name)


def _filled(pattern: str, numbers: Iterable[str]) -> str:
    for number in numbers:
        pattern = pattern.replace("*", number, 1)
    return pattern


def _entry(
    link: Link, theirs: str, ours: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]], num_heads: int
) -> Entry:
    if missing := [name for name in ours if name not in shapes]:
        raise ModelError(f"{theirs} needs {missing[0]}, which this model does not have")
    rows = tuple(shapes[name][0] for name in ours)
    shape = (sum(rows), *shapes[ours[0]][1:])
    if link.stored == "transposed":
        shape = shape[::-1]
    if link.stored == "row":
        shape = (1, *shape)
    return Entry(theirs, ours, rows, shape, link.stored, num_heads, link.keeps_dtype)
