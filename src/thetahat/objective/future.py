"""Tokens behind the next one as further targets (multi-token prediction): which they are, and how likely."""

from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetahat.core.batch import Batch, FutureTargets, Inputs, Packed
from thetahat.core.total import Total
from thetahat.objective.chunked import Chunked, weighed
from thetahat.objective.layout import PaddedRows
from thetahat.objective.log_prob import Head, Kernel
from thetahat.objective.objective import Model, log_likelihood


@runtime_checkable
class Foresighted(Protocol):
    """A model that predicts more than the next token."""

    def hidden_ahead(self, inputs: Inputs) -> tuple[Float[Tensor, "B T D"], ...]:
        """What its head reads for the next token, and for each of those behind it."""
        ...

    @property
    def head(self) -> Head:
        """Turns hidden states into logits."""
        ...


@final
class Ahead:
    """The same model as the objective asks it, which keeps what the head reads for tokens behind the next one."""

    def __init__(self, model: Foresighted) -> None:
        self._model = model
        self._states: list[Float[Tensor, "B T D"]] = []

    def hidden(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        """What the head reads for the next token."""
        hidden, *self._states = self._model.hidden_ahead(inputs)
        return hidden

    @property
    def head(self) -> Head:
        """One for all of them."""
        return self._model.head

    def log_likelihoods(self, batch: Batch, kernel: Kernel) -> Float[Tensor, " n"]:
        r"""$\sum_i w_i \log \Pr_\theta(t_i \mid \mathrm{visible}_{i - n + 1})$ for n = 2, 3, ... ahead, in float64.

        They are of the batch that was read last: target i is predicted n tokens before it, and has the loss weight that
        it has as a next token.
        """
        found: list[Tensor] = []
        for states, ahead in zip(self._states, batch.future, strict=True):
            read = states.flatten(0, 1)[ahead.place], self.head, ahead.target
            is_chunked = isinstance(kernel, Chunked)
            found.append(kernel.summed(*read, ahead.weight)[0] if is_chunked else weighed(kernel(*read), ahead.weight))
        self._states = []
        return torch.stack(found)


def read_all(model: Model, batch: Batch, kernel: Kernel) -> Total:
    """The log-likelihood of a batch with that of its further targets added at weight 1: all that a step may read."""
    ahead = Ahead(model) if batch.future and isinstance(model, Foresighted) else None
    total = log_likelihood(ahead or model, batch, kernel)
    return Total(total.log_prob + ahead.log_likelihoods(batch, kernel).sum(), total.weight) if ahead else total


def future_targets(
    packed: Packed, rows: PaddedRows, read: Int[Tensor, " n"], weights: Float[Tensor, " N"], number: int
) -> tuple[FutureTargets, ...]:
    """The targets 2, 3, ..., `number` + 1 tokens ahead of a place in these rows, of pieces that are read causally.

    They are the targets of the objective, the tokens behind those that are `read`, with their weights. Each is
    predicted once, from the token so many before it: in its piece, and where there is none, in the piece that this one
    continues. So no document reaches into another, and a prefix that branches share has a target in each of them, as
    it would have if they were read apart.
    """
    place = torch.full_like(packed.piece, -1)
    place[read] = rows.row * rows.shape[1] + rows.column
    before, at, target = _before(packed), read, read + 1
    found: list[FutureTargets] = []
    for _ in range(number):
        at = before[at]  # behind the last there is -1, where nothing comes from
        counts = (at >= 0) & (weights[target] != 0)
        mine = target[counts]
        found.append(FutureTargets(place[at[counts]], packed.tokens[mine], weights[mine]))
    return tuple(found)


def _before(packed: Packed) -> Int[Tensor, " M"]:
    """The token before each token on its path, -1 where a path begins; and -1 once more, before no token."""
    num_tokens, piece = len(packed.piece), packed.piece
    before = torch.arange(-1, num_tokens)
    starts = torch.ones(num_tokens, dtype=torch.bool)
    starts[1:] = piece[1:] != piece[:-1]
    first = starts.nonzero()[:, 0]
    before[first] = -1
    before[-1] = -1
    last = torch.cat([first[1:], torch.tensor([num_tokens])]) - 1
    for child in (packed.parent >= 0).nonzero()[:, 0].tolist():  # its first token is the last one of its parent
        before[first[child]] = before[last[packed.parent[child]]]
    return before
