"""Attention within a window on a CPU, a chunk of queries at a time: T times its width, where a mask has T² entries."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetahat.core.visibility import Visibility, reaches
from thetahat.model.attention.kernels import Attend, attend_under

CHUNK = 128  # queries at least: fewer are quicker read than asked for


def chunk_size(distance: int) -> int:
    """Queries that are read at once: their keys are then at most three times as many as one of them sees."""
    return max(CHUNK, distance // 2)


def suits_windows(length: int, distance: int, num_global: int) -> bool:
    """Whether chunks have fewer keys than the row."""
    return length > chunk_size(distance) + distance + num_global


def is_one_text(visibility: Visibility) -> bool:
    """Whether each row is one piece from its first position on, with nothing beside it."""
    position = visibility.position
    if not visibility.is_plain or visibility.is_open is not None or position is None:
        return False
    return bool((position == torch.arange(position.shape[1], device=position.device)).all())


def attend_in_window(length: int, distance: int, num_global: int, *, is_causal: bool) -> Attend:
    """Each of `length` positions sees those within the distance and the first `num_global`, as `Visibility` says."""
    size = chunk_size(distance)
    chunks = [
        _chunk(slice(first, min(first + size, length)), length, distance, num_global, is_causal=is_causal)
        for first in range(0, length, size)
    ]
    masks = [_mask(*chunk, distance, num_global, is_causal=is_causal) for chunk in chunks]

    def attend(
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G T K"],
        v: Float[Tensor, "B G T K"],
        sinks: Float[Tensor, " H"] | None = None,
    ) -> Float[Tensor, "B H T K"]:
        found = [
            attend_under(mask.expand(len(q), -1, -1))(q[:, :, queries], _some(k, keys), _some(v, keys), sinks)
            for (queries, keys), mask in zip(chunks, masks, strict=True)
        ]
        return torch.cat(found, 2)

    return attend


def _chunk(
    queries: slice, length: int, distance: int, num_global: int, *, is_causal: bool
) -> tuple[slice, list[slice]]:
    """These queries with the keys that any of them sees: one range, or the global ones and that of the window."""
    start = max(queries.start - distance, 0)
    stop = queries.stop if is_causal else min(queries.stop + distance, length)
    if queries.start < num_global and not is_causal:  # which see all
        return queries, [slice(0, length)]
    if start <= num_global:
        return queries, [slice(0, stop)]
    return queries, [slice(0, num_global), slice(start, stop)] if num_global else [slice(start, stop)]


def _mask(
    queries: slice, keys: list[slice], distance: int, num_global: int, *, is_causal: bool
) -> Bool[Tensor, "1 t s"]:
    key, query = _places(*keys), _places(queries)[:, None]
    visible = reaches(query, key, distance, num_global)
    return (visible & (key <= query) if is_causal else visible)[None]


def _places(*ranges: slice) -> Int[Tensor, " n"]:
    return torch.cat([torch.arange(one.start, one.stop) for one in ranges])


def _some(x: Float[Tensor, "B G T K"], keys: list[slice]) -> Float[Tensor, "B G s K"]:
    parts = [x[:, :, one] for one in keys]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)
