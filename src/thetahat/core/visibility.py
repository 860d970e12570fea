"""Who may see whom, as data that a batch carries and an attention backend compiles once."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Visibility:
    r"""Position i may see position j of its row when j's piece is i's piece or an ancestor of it, and j <= i if causal.

    Positions marked `is_open` are seen by all of their piece, also by those before them: the prefix of a prefix
    language model.

    A piece is a contiguous span of one sequence. Without ancestors each piece sees itself alone, which is how packed
    documents stay apart; with them, branches share a prefix that is computed once. Padding is piece -1: it sees
    padding, nothing sees it.
    """

    piece: Int[Tensor, "B T"]
    ancestors: Bool[Tensor, "P P"] | None = None  # [i, j]: piece i may see piece j; None: i == j
    is_causal: bool = True
    is_plain: bool = False  # each row is one piece, padded at its end at most: a causal kernel needs no mask
    is_open: Bool[Tensor, "B T"] | None = None  # None: nowhere
    keys: Int[Tensor, "B S"] | None = None  # the pieces of what was read before and of what is read now; None: of this

    def mask(self) -> Bool[Tensor, "B T S"]:
        """The relation, written out; S is T unless there are `keys`, of which the last T are these positions."""
        keys = self.piece if self.keys is None else self.keys
        query, key = self.piece[:, :, None], keys[:, None, :]
        visible = query == key
        if self.ancestors is not None:
            visible |= self.ancestors[query.clamp(min=0), key.clamp(min=0)] & (query >= 0) & (key >= 0)
        if self.is_causal:
            shape = (self.piece.shape[1], keys.shape[1])
            earlier = torch.ones(shape, dtype=torch.bool, device=keys.device).tril(shape[1] - shape[0])
            visible &= earlier if self.is_open is None else earlier | self.is_open[:, None, :]
        return visible

    def to(self, device: torch.device | str) -> "Visibility":
        """The same relation on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Visibility":
        """The same with every tensor changed: moved, pinned."""
        others = {name: getattr(self, name) for name in ("ancestors", "is_open", "keys")}
        changed = {name: None if value is None else change(value) for name, value in others.items()}
        return replace(self, piece=change(self.piece), **changed)


def ancestors_of(parent: Int[Tensor, " P"]) -> Bool[Tensor, "P P"] | None:
    """The reflexive closure of `parent` (-1: none), or None where no piece has a parent."""
    if bool((parent < 0).all()):
        return None
    closure = torch.eye(len(parent), dtype=torch.bool)
    for child, above in enumerate(parent.tolist()):
        if above >= 0:  # a parent stands before its children, so its own row is complete
            closure[child] |= closure[above]
    return closure
