"""Which kernel knows a Visibility: found once a batch, used by every layer that reads alike."""

from dataclasses import replace
from itertools import groupby

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from thetahat.core.visibility import Row, Visibility, reaches
from thetahat.model.attention.flex import attend_in_blocks, obstacle
from thetahat.model.attention.kernels import (
    Attend,
    Past,
    Run,
    Scores,
    attend_apart,
    attend_causally,
    attend_scored,
    attend_under,
)
from thetahat.model.attention.window import attend_in_window, is_one_text, suits_windows

_PLAIN = Scores()
FEW = 32  # positions a call: with fewer, calls cost more than a mask that is mostly false


def compile_visibility(
    visibility: Visibility,
    head_width: int,
    dtype: torch.dtype,
    past: Past | None = None,
    scores: Scores = _PLAIN,
) -> Attend:
    """Attention under this relation by the fastest kernel that knows it; made once a batch.

    Plain rows need no mask where `scaled_dot_product_attention` knows the relation itself: causal, or everything. Other
    rows are read piece by piece or tree by tree on a CPU, where these are long or alike, and in blocks on a GPU
    (`flex.py`), for products in `dtype` over heads of `head_width`; the rest under the mask. Scores that are changed
    are held whole, or for each piece or tree: T x T numbers a head. A bias asks for `visibility.position`.
    """
    if visibility.whole is not None:
        return _attend_in_chunks(visibility, visibility.whole, scores)
    if past is not None and (past.piece is not None or past.position.shape[1]):
        return _attend_with_past(visibility, past, scores)
    if not (visibility.is_plain and (visibility.is_open is None or not visibility.is_causal)):
        if (runs := _runs_apart(visibility, scores)) is not None:
            return attend_apart(runs)
        device, length = visibility.piece.device, visibility.piece.shape[1]
        if scores == _PLAIN and obstacle(device, dtype, head_width, length) is None:
            return attend_in_blocks(visibility)
    return _attend_whole(visibility, scores)


def _attend_whole(visibility: Visibility, scores: Scores) -> Attend:
    """Attention over whole rows."""
    is_full = visibility.lengths is not None and len(visibility.lengths) == len(visibility.piece)
    sees_all = visibility.is_plain and not visibility.is_causal and is_full
    if scores != _PLAIN:
        bias = None if scores.bias is None else scores.bias(_differences(_positions(visibility), visibility))
        return attend_scored(None if sees_all else visibility.mask(), bias, scores.cap)
    if visibility.is_plain and visibility.is_causal and visibility.is_open is None:
        return attend_causally
    return attend_under(None if sees_all else visibility.mask())


def _attend_in_chunks(visibility: Visibility, row: Row, scores: Scores) -> Attend:
    """Attention of this process's queries to the keys of whole rows, which are gathered."""
    kernels: list[Attend] = []
    for queries, keys in row.chunks:
        mask, bias = visibility.mask(queries, keys), None
        if scores.bias is not None:
            away = _positions(row.seen)[:, None, keys] - _positions(visibility)[:, queries, None]
            bias = scores.bias(away)
        kernels.append(attend_under(mask) if scores == _PLAIN else attend_scored(mask, bias, scores.cap))

    def attend(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
        both = row.gathered(torch.cat([k, v], -1))  # one exchange
        k, v = both.split([k.shape[-1], v.shape[-1]], -1)
        found = [
            kernel(q[:, :, queries], k[:, :, keys], v[:, :, keys], sinks)
            for kernel, (queries, keys) in zip(kernels, row.chunks, strict=True)
        ]
        return torch.cat(found, 2)

    return attend


def _attend_with_past(visibility: Visibility, past: Past, scores: Scores) -> Attend:
    """The same with what was read before in front of the keys."""
    num_new, mask = visibility.piece.shape[1], None
    if past.piece is not None or num_new > 1:
        before = torch.ones_like(past.position, dtype=torch.bool)[:, None].expand(-1, num_new, -1)
        if past.piece is not None:
            before = visibility.piece[:, :, None] == past.piece[:, None]
        if visibility.distance is not None:
            far = _positions(visibility)[:, :, None], past.position[:, None]
            before = before & reaches(*far, visibility.distance, visibility.num_global)
        mask = torch.cat([before, visibility.mask()], dim=-1)
    if scores == _PLAIN:
        return attend_under(mask)
    if scores.bias is None:
        return attend_scored(mask, cap=scores.cap)
    position = torch.cat([past.position, _positions(visibility)], dim=-1)
    return attend_scored(mask, scores.bias(_differences(position, visibility)), scores.cap)


def _positions(visibility: Visibility) -> Int[Tensor, "B T"]:
    if visibility.position is None:
        raise ValueError("scores that depend on positions ask for visibility.position")
    return visibility.position


def _differences(position: Int[Tensor, "B S"], visibility: Visibility) -> Int[Tensor, "B T S"]:
    """Positions of keys - positions of queries."""
    return position[:, None, :] - _positions(visibility)[:, :, None]


def _runs_apart(visibility: Visibility, scores: Scores) -> list[Run] | None:
    """What stands apart in packed rows on a CPU, if it is long, or mostly of one length.

    Other devices have kernels that read blocks of any piece, and a graph that is compiled must not depend on lengths.
    """
    if visibility.lengths is None or visibility.piece.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    is_long = visibility.piece.numel() >= FEW * len(groups_of(visibility, visibility.lengths))
    return runs_of(visibility, visibility.lengths, scores) if is_long else None


def runs_of(visibility: Visibility, lengths: tuple[int, ...], scores: Scores = _PLAIN) -> list[Run]:
    """Row after row, pieces and trees of pieces, and the padding at a row's end, each with its kernel."""
    runs: list[Run] = []
    start = 0
    for number, length in groups_of(visibility, lengths):
        alone = _part(visibility, slice(start, start + number * length), number)
        runs.append(Run(number, length, _attend_near(alone, visibility, scores)))
        start += number * length
    return runs


def groups_of(visibility: Visibility, lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Row after row, how many pieces or trees of one length: several that are read alike, or one with its own mask."""
    if visibility.ancestors is not None or visibility.is_open is not None:
        return [(1, length) for length in lengths]
    return [(len(list(alike)), length) for length, alike in groupby(lengths)]


def _part(visibility: Visibility, where: slice, number: int) -> Visibility:
    """So many neighbours of one length as rows of their own."""

    def rows(flat: Tensor) -> Tensor:
        return flat.flatten()[where].unflatten(0, (number, -1))

    piece = rows(visibility.piece)
    is_open: Bool[Tensor, "B T"] | None = None if visibility.is_open is None else rows(visibility.is_open)
    is_open = None if is_open is None or not bool(is_open.any()) else is_open
    is_one = visibility.ancestors is None or bool((piece == piece[:, :1]).all())
    return replace(
        visibility,
        piece=piece,
        ancestors=None if is_one else visibility.ancestors,
        is_plain=is_one,
        is_open=is_open,
        lengths=(piece.shape[1],) * number,
        distance=None,
        num_global=0,
        position=None if visibility.position is None else rows(visibility.position),
    )


def _attend_near(alone: Visibility, visibility: Visibility, scores: Scores) -> Attend:
    """Attention of neighbours that see themselves alone, within the window of the rows that they are of."""
    distance, num_global, length = visibility.distance, visibility.num_global, alone.piece.shape[1]
    if distance is None:
        return _attend_whole(alone, scores)
    if scores == _PLAIN and suits_windows(length, distance, num_global) and is_one_text(alone):
        return attend_in_window(length, distance, num_global, is_causal=alone.is_causal)
    return _attend_whole(alone.within(distance, _positions(alone), num_global=num_global), scores)
