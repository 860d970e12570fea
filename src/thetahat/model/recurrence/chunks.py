"""Pieces cut into chunks: where a recurrence starts, and in which order states are handed on."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetahat.core.transfer import onto
from thetahat.core.visibility import Span, Visibility
from thetahat.model.recurrence.count import CHUNK
from thetahat.model.recurrence.rounds import Rounds


@dataclass(frozen=True, slots=True)
class Chunks:
    """The pieces of a batch in chunks of W positions, each piece from its own beginning.

    So nothing is read across the beginning of a piece, and what is computed of a piece has the same shapes wherever it
    lies: packed rows give the bits of rows of their own. A piece that continues another goes on from the state in which
    that ended, and its convolutions see the last R positions of it. Where a cache keeps a state, a row is one piece,
    and what it kept of the positions before stands in front of x.
    """

    place: Int[Tensor, "U W"]  # in B x T
    is_there: Bool[Tensor, "U W"]  # a piece may end within its last chunk
    window: Int[Tensor, "U w"]  # the same with R positions before, in B x T, or in B x (R + T) with a cache
    in_window: Bool[Tensor, "U w"]
    home: Int[Tensor, "B T"]  # where each position lies in U x W
    is_read: Bool[Tensor, "B T"]  # padding is not
    rounds: Rounds  # in which order chunks go on from others
    mine: Int[Tensor, " t"] | None = None  # the columns of this process, where others read the rest of its rows
    gathered: Callable[[Tensor], Tensor] | None = None  # [B 1 t D] of this process -> [B 1 T D] of all

    def for_any_number(self) -> "Chunks":
        """The same, told to torch's compiler as of any number of chunks and rounds: else each would be a graph."""
        for tensor in (self.place, self.is_there, self.window, self.in_window, self.rounds.before, self.rounds.edges):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)  # pyright: ignore[reportPrivateUsage]
        return self

    def whole(self, x: Float[Tensor, "B t D"]) -> Float[Tensor, "B T D"]:
        """Whole rows, of which this process has some positions: each process reads all of them."""
        return x if self.gathered is None else self.gathered(x[:, None])[:, 0]

    def lay(self, x: Float[Tensor, "B T X"]) -> Float[Tensor, "U W X"]:
        """The positions of each chunk, 0 where there is none."""
        return _taken(x, self.place, self.is_there)

    def lay_windows(self, x: Float[Tensor, "B T X"]) -> Float[Tensor, "U w X"]:
        """The same behind the R positions before."""
        return _taken(x, self.window, self.in_window)

    def restore(self, x: Float[Tensor, "U W X"]) -> Float[Tensor, "B t X"]:
        """Rows again, 0 where nothing is read."""
        rows = _taken(x, self.home, self.is_read)
        return rows if self.mine is None else rows[:, self.mine]


def _taken(x: Tensor, place: Tensor, is_there: Tensor) -> Tensor:
    taken = x.flatten(0, 1).index_select(0, place.flatten()).unflatten(0, place.shape)
    return taken.masked_fill(~is_there[..., None], 0.0)


def chunks_of(visibility: Visibility, reach: int) -> Chunks:
    """How a layer that sees `reach` positions before each by a convolution reads these rows."""
    row = visibility.row
    found = _cut(row.found_spans(), reach, tuple(row.piece.shape))
    place, window, home, before = (onto(one, row.piece.device) for one in found[:4])
    whole = visibility.whole
    return Chunks(
        place.clamp(min=0),
        place >= 0,
        window.clamp(min=0),
        window >= 0,
        home.clamp(min=0),
        home >= 0,
        Rounds(before, found[4]),
        whole and whole.mine,
        whole and whole.gathered,
    )


def chunks_behind(piece: Int[Tensor, "B T"], reach: int) -> Chunks:
    """The same where each row goes on from the state that a cache has kept of it; piece -1 is padding."""
    (rows, width), device = piece.shape, piece.device
    size = min(CHUNK, width)
    number = -(-width // size)
    column = torch.arange(number * size, device=device).view(number, 1, size)
    is_there = (column < width).expand(-1, rows, -1)
    row = torch.arange(rows, device=device)[:, None]
    place = row * width + column.clamp(max=width - 1)
    seen = torch.arange(-reach, size, device=device) + column[..., :1]  # R + W columns of [tail; x] from each beginning
    window = row * (reach + width) + (seen + reach).clamp(max=reach + width - 1)
    time = torch.arange(width, device=device)
    home = ((time // size) * rows + row) * size + time % size
    is_read = piece >= 0
    is_there = is_there & is_read.flatten()[place]
    return Chunks(
        place.flatten(0, 1),
        is_there.flatten(0, 1),
        window.flatten(0, 1),
        (seen < width).expand(-1, rows, -1).flatten(0, 1),
        home,
        is_read,
        Rounds(torch.arange(rows, device=device).repeat(number), torch.arange(number + 1) * rows, num_last=rows),
    )


def _cut(
    spans: Sequence[Span], reach: int, shape: tuple[int, ...]
) -> tuple[Int[Tensor, "U W"], Int[Tensor, "U w"], Int[Tensor, "B T"], Int[Tensor, " U"], Int[Tensor, " r"]]:
    """Places of chunks, of what they see and of positions in chunks, -1 where there is none; and the rounds."""
    chunks = _Chunked(spans, reach)
    which, offset, before = (torch.tensor(column) for column in zip(*chunks.in_order(), strict=True))
    column = offset[:, None] + torch.arange(-reach, CHUNK)
    start, length = (torch.tensor([span[axis] for span in spans])[which, None] for axis in (0, 1))
    window = torch.where(column < length, start + column, -1)
    if reach:
        lead = torch.tensor(chunks.leads)[which].gather(1, (column + reach).clamp(0, reach - 1))
        window = torch.where(column < 0, lead, window)
    place = window[:, reach:]
    is_there = place >= 0
    home = torch.full((shape[0] * shape[1],), -1)
    home[place[is_there]] = is_there.flatten().nonzero()[:, 0]
    edges = torch.tensor([0, *itertools.accumulate(map(len, chunks.rounds))])
    return place, window, home.view(*shape), before, edges


class _Chunked:
    """Spans in chunks: for each round (span, offset in it, index of the chunk before in the round before)."""

    def __init__(self, spans: Sequence[Span], reach: int) -> None:
        self.rounds: list[list[tuple[int, int, int]]] = []
        self.leads: list[list[int]] = []  # the places before the first position of each span, -1: none
        ends: list[tuple[int, int]] = []  # round of the last chunk of each span, and its index there
        for number, span in enumerate(spans):
            above = spans[span.parent] if span.parent >= 0 else None
            lead = [-1] * reach
            turn, before = -1, 0
            if above is not None:
                lead = [*self.leads[span.parent], *range(above.start, above.start + above.length)]
                turn, before = ends[span.parent]
            self.leads.append(lead[len(lead) - reach :])
            for offset in range(0, span.length, CHUNK):
                turn += 1
                if turn == len(self.rounds):
                    self.rounds.append([])
                self.rounds[turn].append((number, offset, before))
                before = len(self.rounds[turn]) - 1
            ends.append((turn, before))

    def in_order(self) -> list[tuple[int, int, int]]:
        """All chunks, round after round."""
        return [chunk for one in self.rounds for chunk in one]
