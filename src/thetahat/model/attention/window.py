"""Attention within a window on a CPU, a chunk of queries at a time: T times its width, where a mask has T² entries."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thetahat.core.visibility import Visibility, reaches
from thetahat.model.attention.kernels import Attend, attend_under

CHUNK = 128  # queries at least: fewer are quicker read than asked for


class Chunk(NamedTuple):
    """Neighbouring queries, and the keys that any of them sees: whole chunks of the row, behind the global ones."""

    queries: slice  # in the row
    keys: slice  # in chunks
    is_behind_globals: bool  # so that these are not among the keys


def chunk_size(distance: int) -> int:
    """Queries that are read at once: their keys are then at most three times as many as one of them sees."""
    return max(CHUNK, distance // 2)


def keys_read(distance: int, num_global: int) -> int:
    """Keys of a chunk that sees what is before it."""
    size = chunk_size(distance)
    return size * (1 + -(-distance // size)) + num_global


def suits_windows(length: int, distance: int, num_global: int) -> bool:
    """Whether chunks have fewer keys than the row."""
    return length > keys_read(distance, num_global)


def mean_keys(length: int, distance: int, num_global: int, *, is_causal: bool) -> float:
    """Keys that a query is multiplied with, in the mean over a row."""
    size, total = chunk_size(distance), 0
    for first in range(0, length, size):
        queries, keys, is_behind_globals = _chunk(first, length, distance, num_global, is_causal=is_causal)
        stop = length if keys.stop is None else min(keys.stop * size, length)
        total += (queries.stop - queries.start) * (stop - keys.start * size + is_behind_globals * num_global)
    return total / length


def is_one_text(visibility: Visibility) -> bool:
    """Whether each row is one piece from its first position on, with nothing beside it."""
    position = visibility.position
    if not visibility.is_plain or visibility.is_open is not None or position is None:
        return False
    return bool((position == torch.arange(position.shape[1], device=position.device)).all())


def attend_in_window(length: int, distance: int, num_global: int, *, is_causal: bool) -> Attend:
    """Each of `length` positions sees those within the distance and the first `num_global`, as `Visibility` says.

    Keys are cut into chunks once, and put together again for each chunk of queries: the gradient of a slice of the row
    would be as long as the row.
    """
    size = chunk_size(distance)
    chunks = [_chunk(first, length, distance, num_global, is_causal=is_causal) for first in range(0, length, size)]
    masks: list[Bool[Tensor, "1 t s"]] = []
    for chunk in chunks:
        places = [torch.arange(num_global)] if chunk.is_behind_globals else []
        key = torch.cat([*places, *torch.arange(length).split(size)[chunk.keys]])
        query = torch.arange(length)[chunk.queries, None]
        visible = reaches(query, key, distance, num_global)
        masks.append((visible & (key <= query) if is_causal else visible)[None])

    def attend(
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G T K"],
        v: Float[Tensor, "B G T K"],
        sinks: Float[Tensor, " H"] | None = None,
    ) -> Float[Tensor, "B H T K"]:
        beginnings = [x[:, :, :num_global] for x in (k, v)]
        pieces = [x.split(size, 2) for x in (k, v)]
        found: list[Tensor] = []
        for queries, chunk, mask in zip(q.split(size, 2), chunks, masks, strict=True):
            ks, vs = (
                torch.cat([*([one] if chunk.is_behind_globals else []), *each[chunk.keys]], 2)
                for one, each in zip(beginnings, pieces, strict=True)
            )
            found.append(attend_under(mask.expand(len(q), -1, -1))(queries, ks, vs, sinks))
        return torch.cat(found, 2)

    return attend


def _chunk(first: int, length: int, distance: int, num_global: int, *, is_causal: bool) -> Chunk:
    """That of the queries from `first` on."""
    size = chunk_size(distance)
    queries = slice(first, min(first + size, length))
    if first < num_global and not is_causal:  # these see all
        return Chunk(queries, slice(0, None), is_behind_globals=False)
    start = max(first - distance, 0) // size
    stop = queries.stop if is_causal else min(queries.stop + distance, length)
    if start * size <= num_global:
        return Chunk(queries, slice(0, -(-stop // size)), is_behind_globals=False)
    return Chunk(queries, slice(start, -(-stop // size)), is_behind_globals=num_global > 0)
