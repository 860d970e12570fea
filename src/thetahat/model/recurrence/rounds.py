"""States handed on from chunk to chunk, by one operation of torch with a gradient of its own.

How many rounds there are, and how many chunks each has, changes with every batch. To a graph that is compiled these are
the lengths of two tensors, where a loop over rounds would be one graph for each number of them, as long as the text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

State = Float[Tensor, "_ H K O"]


@dataclass(frozen=True, slots=True)
class Rounds:
    """Which chunks go on from which: those of one round have the states before them at once.

    The first round goes on from nothing, or with a cache from the states of its rows.
    """

    before: Int[Tensor, " U"]  # of each chunk, the place in the round before of the one that it goes on from
    edges: Int[Tensor, " r"]  # on the host: the first chunk of each round, and the number of all
    num_last: int | None = None  # chunks of the last round, where a cache keeps the states behind them


def hand_on(
    change: Float[Tensor, "U H k k"],
    added: Float[Tensor, "U H K O"],
    rounds: Rounds,
    start: State | None = None,
) -> tuple[Float[Tensor, "U H K O"], State | None]:
    r"""$S_u$ before each chunk u, and the states behind the last round where they are kept.

    The chunk that goes on from u begins with $C_u S_u + A_u$ for the change $C_u$, a matrix or a number, and what is
    added, $A_u$.
    """
    begin = added[:0] if start is None else start
    before = cast(Callable[..., Tensor], _states)(change, added, begin, rounds.before, rounds.edges)
    if rounds.num_last is None:
        return before, None
    last = slice(len(before) - rounds.num_last, None)
    return before, _changed(change[last], before[last]) + added[last]


def _changed(change: Tensor, states: Tensor) -> Tensor:
    return change * states if change.shape[-1] == 1 else change @ states


@torch.library.custom_op("thetahat::states_before", mutates_args=())
def _states(change: Tensor, added: Tensor, start: Tensor, index: Tensor, edges: Tensor) -> Tensor:
    before = added.new_empty(added.shape)
    places: list[int] = edges.tolist()
    before[: places[1]] = start if len(start) else 0.0
    low = 0
    for middle, high in pairwise(places[1:]):
        states = _changed(change[low:middle], before[low:middle]) + added[low:middle]
        torch.index_select(states, 0, index[middle:high], out=before[middle:high])
        low = middle
    return before


@torch.library.custom_op("thetahat::states_before_backward", mutates_args=())
def _backward(given: Tensor, change: Tensor, index: Tensor, edges: Tensor) -> Tensor:
    r"""The gradient of $A_u$, which is that of the state behind u: a sum over the chunks that go on from it."""
    of_added = given.new_zeros(given.shape)
    places: list[int] = edges.tolist()
    for low, middle, high in reversed([*zip(places, places[1:], places[2:], strict=False)]):
        of_state = given[middle:high]
        if high < places[-1]:
            of_state = of_state + _changed(change[middle:high].mT, of_added[middle:high])
        of_added[low:middle].index_add_(0, index[middle:high], of_state)
    return of_added


def _saved(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    change, _, start, index, edges = inputs
    ctx.save_for_backward(change, output, index, edges)
    ctx.num_starts = len(start)


def _gradients(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
    change, before, index, edges = cast(tuple[Tensor, ...], ctx.saved_tensors)
    of_added = cast(Callable[..., Tensor], _backward)(given, change, index, edges)
    is_number, first = change.shape[-1] == 1, slice(ctx.num_starts)
    of_change = (of_added * before).sum((-2, -1), keepdim=True) if is_number else of_added @ before.mT
    of_start = given[first] + _changed(change[first].mT, of_added[first])
    return of_change, of_added, of_start, None, None


def _unfilled(change: Tensor, added: Tensor, start: Tensor, index: Tensor, edges: Tensor) -> Tensor:
    return added.new_empty(added.shape)


def _unfilled_backward(given: Tensor, change: Tensor, index: Tensor, edges: Tensor) -> Tensor:
    return given.new_empty(given.shape)


_states.register_fake(_unfilled)
_backward.register_fake(_unfilled_backward)
_states.register_autograd(_gradients, setup_context=_saved)
