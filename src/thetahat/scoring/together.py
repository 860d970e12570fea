"""Ranks that hold a model together read it in rounds: each as often as the others, whatever it has to read."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from thetahat.distribution.world import World

T = TypeVar("T")


def in_rounds(mine: Sequence[int], world: World, stops: Callable[[], bool]) -> Iterator[int]:
    """This rank's groups; then one that is read in vain, while others have some left. All stop where one does."""
    for turn in range(world.largest(len(mine))):
        if world.any(stops()):
            return
        yield mine[turn] if turn < len(mine) else (mine or [0])[0]


def as_many(batches: Sequence[T], world: World) -> Iterator[tuple[T, bool]]:
    """This rank's batches of a round, each with whether it counts, and as many as the rank with most has."""
    for turn in range(world.largest(len(batches))):
        yield batches[turn % len(batches)], turn < len(batches)
