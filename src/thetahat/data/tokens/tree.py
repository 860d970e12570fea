"""Paths of one record as a tree, in which what they share stands once."""

from collections.abc import Sequence
from typing import final

from thetahat.data.tokens.encoded import Span

Ids = Sequence[int]


@final
class Tree:
    """Paths of context and completion. Contexts share whatever is there; a completion is always new.

    So each token that is asked belongs to one turn, though later contexts may run through it.
    """

    def __init__(self) -> None:
        self._root = _Edge([], [])
        self._num_nodes = 0

    @property
    def positions(self) -> int:
        """How many positions are read: one per token, but for the first of each beginning and what only ends a path."""
        return self._num_nodes - len(self._root.below)

    def shared(self, context: Ids) -> int:
        """How many of these tokens, from the first, are there already."""
        return self._find(context)[2]

    def add(self, context: Ids, completion: Ids, parts: tuple[int, int]) -> None:
        """Adds a path, its new tokens belonging to these two parts."""
        edge, offset, depth = self._find(context)
        if offset < len(edge.tokens):
            edge.split(offset)
        for tokens, part in ((context[depth:], parts[0]), (completion, parts[1])):
            if tokens:
                below = _Edge(list(tokens), [part] * len(tokens))
                edge.below.append(below)
                edge = below
                self._num_nodes += len(tokens)

    def sequences(self) -> tuple[tuple[Span, ...], ...]:
        """The spans of each beginning, parents before their children."""
        return tuple(sequence for edge in self._root.below for sequence in _spans(edge))

    def _find(self, context: Ids) -> tuple["_Edge", int, int]:
        """The edge in which the longest known beginning ends, where in it, and how long that is."""
        edge, depth = self._root, 0
        while depth < len(context):
            length, index = max(
                (
                    (agreement(below.tokens, context[depth : depth + len(below.tokens)]), -i)
                    for i, below in enumerate(edge.below)
                ),
                default=(0, 0),
            )
            if length == 0:
                break
            edge, depth = edge.below[-index], depth + length
            if length < len(edge.tokens):
                return edge, length, depth
        return edge, len(edge.tokens), depth


@final
class _Edge:
    """Tokens between two places where paths part, and what part each belongs to."""

    __slots__ = ("below", "part", "tokens")

    def __init__(self, tokens: list[int], part: list[int]) -> None:
        self.tokens, self.part = tokens, part
        self.below: list[_Edge] = []

    def split(self, offset: int) -> None:
        rest = _Edge(self.tokens[offset:], self.part[offset:])
        rest.below = self.below
        self.tokens, self.part, self.below = self.tokens[:offset], self.part[:offset], [rest]


def agreement(one: Sequence[object], other: Sequence[object]) -> int:
    """How many of the first elements are the same."""
    if one == other:
        return len(one)
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(one), len(other)))


def _spans(beginning: _Edge) -> list[tuple[Span, ...]]:
    tokens, part, ends = _chain(beginning)
    if len(tokens) == 1 and ends:  # only what is not asked is shared: each child begins by itself
        return [_walk([(below, tokens, part, -1, 0)]) for below in ends]
    return [_walk([(beginning, [], [], -1, 0)])]


def _walk(waiting: list[tuple[_Edge, list[int], list[int], int, int]]) -> tuple[Span, ...]:
    """From edges, each with the token before it, its part, the span above and the position, all that is below."""
    spans: list[Span] = []
    while waiting:
        edge, before, part_before, parent, position = waiting.pop()
        tokens, part, ends = _chain(edge)
        tokens, part = before + tokens, part_before + part
        last = position + len(tokens) - 1
        waiting += [(below, tokens[-1:], part[-1:], len(spans), last) for below in reversed(ends)]
        spans.append(Span(tuple(tokens), tuple(part), parent, position))
    return tuple(spans)


def _chain(edge: _Edge) -> tuple[list[int], list[int], list[_Edge]]:
    """The tokens down to the next fork, their parts, and the edges there."""
    tokens, part = list(edge.tokens), list(edge.part)
    while len(edge.below) == 1:
        (edge,) = edge.below
        tokens += edge.tokens
        part += edge.part
    return tokens, part, edge.below
