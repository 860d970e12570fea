"""Which of their tensors is which of our parameters, and how several of ours are one of theirs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from thetahat.core.errors import ModelError

Storage = Literal["rows", "transposed", "heads", "row"]
_NUMBER = re.compile(r"(?<=\bblocks\.)\d+(?=\.)|(?<=\bexperts\.)\d+(?=\.)")


@final
@dataclass(frozen=True)
class Link:
    """A module of theirs, and of ours: one, or several whose parameters are joined.

    `*` is the number of a layer, and a second one that of an expert.

    `rows`: ours, one below the other. `transposed`: so, and matrices are [in, out]. `heads`: row blocks in turn, a
    head at a time. `row`: a vector [V] of ours is [1 V] of theirs. Where the name of ours ends in weight or bias, it is
    a parameter and no module, and so is theirs.
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

    @property
    def is_plain(self) -> bool:
        """Whether it is one of ours as it is."""
        return self.stored == "rows" and len(self.ours) == 1

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Ours, as views of theirs where that is possible."""
        if self.stored == "transposed":
            tensor = tensor.t() if tensor.ndim == 2 else tensor
        elif self.stored == "heads":
            by_head = tensor.unflatten(0, (self.num_heads, len(self.ours), -1))
            tensor = by_head.transpose(0, 1).flatten(0, 2)
        elif self.stored == "row":
            tensor = tensor[0]
        return list(tensor.split(self.rows))

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Theirs, of ours."""
        joined = torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]
        if self.stored == "transposed":
            return joined.t() if joined.ndim == 2 else joined
        if self.stored == "heads":
            by_part = joined.unflatten(0, (len(self.ours), self.num_heads, -1))
            return by_part.transpose(0, 1).flatten(0, 2)
        return joined[None] if self.stored == "row" else joined


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
