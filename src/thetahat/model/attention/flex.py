"""Attention under any Visibility without its matrix: blocks of keys that a block of queries cannot see are left out.

Dong et al., Flex Attention, 2024 (arXiv 2412.05496), by torch.nn.attention.flex_attention.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, no_type_check

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention
from torch.nn.functional import pad

from thetahat.core.visibility import Visibility, reaches

Sees = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # row, head, query position, key position -> Bool

BLOCK = 128
"""Positions of a block, of queries and of keys: the kernels' own."""

CELLS = 2**24
"""Pairs of positions that are looked at together where blocks are told apart: 16 MiB, whatever the length of a row."""

MAX_KERNELS = 64
"""Kernels for different kinds of batch, more than ever meet: one row or several, a tree or not, with a gradient or not.

Beyond torch's own limit of 8 it would be an error, since without a kernel all T x T products would be held.
"""


def obstacle(device: torch.device, dtype: torch.dtype, head_width: int, num_positions: int) -> str | None:
    """Why the kernels cannot, or should not, be used for heads of this width and rows of this length; None: nothing.

    Queries, keys and values are of `dtype`. The conditions are those of torch 2.13, _inductor/kernel/flex.
    """
    if device.type != "cuda":
        return f"{device.type}: only on CUDA the fused kernels have a backward pass"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"{dtype}: the kernels add in float32"
    if head_width < 16:
        return f"heads of width {head_width}: a product of Triton's has at least 16 terms"
    if num_positions <= BLOCK:
        return f"rows of {num_positions} positions: one block, of which nothing is left out"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "a GPU from before Ampere: no kernel was tuned for it"
    needed, available = _tile_bytes(dtype, head_width), _shared_memory(device)
    if needed > available:
        return f"heads of width {head_width} in {dtype}: tiles of up to {needed} bytes, shared memory of {available}"
    if not _can_compile():
        return "no Triton, no C compiler or no Python.h: kernels cannot be made here"
    return None


def _tile_bytes(dtype: torch.dtype, head_width: int) -> int:
    """What the forward kernel's tiles take where nothing was tuned: 128 queries, and 64 keys and 64 values three times.

    Tuned ones may take more, for a GPU that has more. Kernels compiled for 8.0, 8.6, 9.0 and 12.0 fit where this does.
    """
    rounded = 1 << (head_width - 1).bit_length()
    return (128 + 3 * (64 + 64)) * rounded * dtype.itemsize


def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one block of threads may ask for."""
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 48 * 1024))


@cache
def _can_compile() -> bool:
    """Whether Triton is here, and what it makes its launchers with."""
    compilers = (os.environ.get("CC"), "clang", "gcc")
    has_compiler = any(name is not None and shutil.which(name) for name in compilers)
    has_headers = (Path(sysconfig.get_path("include")) / "Python.h").exists()
    return find_spec("triton") is not None and has_compiler and has_headers


def attend_in_blocks(visibility: Visibility) -> Callable[..., Tensor]:
    r"""$\mathrm{softmax}\left(q k^\top / \sqrt{K}\right) v$ over what `visibility` shows, for q, k, v as in Attend.

    With sinks z what is read is multiplied by $\sigma(\log \sum_j e^{s_j} - z)$.

    The blocks are found once a batch and shared by all layers. Inside a compiled layer the kernel is compiled with the
    layer, for the shapes that it sees; elsewhere once a process, for any.
    """
    blocks = blocks_of(visibility)

    @no_type_check  # read by the compiler, which cannot read the checks of the tests
    def attend(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
        run = flex_attention if torch.compiler.is_compiling() else _run_compiled
        # under autocast normalised queries and keys are still float32, and the kernels want one dtype
        q, k = q.to(v.dtype), k.to(v.dtype)
        if sinks is None:
            return run(q, k, v, block_mask=blocks, enable_gqa=True)
        read, told = run(q, k, v, block_mask=blocks, enable_gqa=True, return_aux=AuxRequest(lse=True))
        return (read * torch.sigmoid(told.lse - sinks[:, None])[..., None]).to(v.dtype)

    return attend


def _run_compiled(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G T K"],
    v: Float[Tensor, "B G T K"],
    *,
    block_mask: BlockMask,
    enable_gqa: bool,
    return_aux: AuxRequest | None = None,
) -> Any:
    with torch._dynamo.config.patch(recompile_limit=MAX_KERNELS):  # pyright: ignore[reportPrivateUsage]
        return _compiled()(q, k, v, block_mask=block_mask, enable_gqa=enable_gqa, return_aux=return_aux)


@cache
def _compiled() -> Callable[..., Any]:
    """Rows are as long as the longest of a batch: sizes are arguments of this kernel, not constants."""
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


def blocks_of(visibility: Visibility, size: int = BLOCK) -> BlockMask:
    """Which blocks of keys each block of queries sees in part, and which whole.

    Some rows of the matrix are looked at together, so that all of it never exists.
    """
    rows, length = visibility.piece.shape
    sees = relation(visibility)
    if visibility.ancestors is not None and not torch.compiler.is_compiling():
        # the number of pieces changes with the batch
        torch._dynamo.maybe_mark_dynamic(visibility.ancestors, [0, 1])  # pyright: ignore[reportPrivateUsage]
    row = torch.arange(rows, device=visibility.piece.device)[:, None, None]
    place = torch.arange(length, device=visibility.piece.device)
    portion = max(CELLS // max(rows * length, 1) // size, 1) * size
    visible = [
        _pairs_seen(sees(row, row.new_zeros(()), queries[:, None], place), size) for queries in place.split(portion)
    ]
    pairs = torch.cat(visible, dim=1)
    is_whole = pairs == size * size
    partly, whole = _listed((pairs > 0) & ~is_whole), _listed(is_whole)
    return BlockMask.from_kv_blocks(*partly, *whole, BLOCK_SIZE=size, mask_mod=sees, seq_lengths=(length, length))


def _pairs_seen(visible: Bool[Tensor, "B t T"], size: int) -> Int[Tensor, "B b c"]:
    """How many pairs of each block are visible; what lies behind the end of a row is not."""
    _, queries, keys = visible.shape
    whole = pad(visible, (0, -keys % size, 0, -queries % size))
    return whole.unflatten(2, (-1, size)).unflatten(1, (-1, size)).sum((2, 4))


def _listed(blocks: Bool[Tensor, "B b c"]) -> tuple[Int[Tensor, "B 1 b"], Int[Tensor, "B 1 b c"]]:
    """How many are true in each line, and where: the true ones first."""
    lines = blocks[:, None].int()  # the same for all heads
    return lines.sum(-1, dtype=torch.int32), lines.argsort(dim=-1, descending=True, stable=True).int()


def relation(visibility: Visibility) -> Sees:
    """`visibility.mask()`, one pair at a time: what the kernels ask where a block is seen in part."""
    piece, ancestors, is_open = visibility.piece, visibility.ancestors, visibility.is_open
    is_causal, distance, position = visibility.is_causal, visibility.distance, visibility.position
    num_global = visibility.num_global

    @no_type_check
    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        query_piece, key_piece = piece[row, query], piece[row, key]
        visible = query_piece == key_piece
        if ancestors is not None:
            is_above = ancestors[query_piece.clamp(min=0), key_piece.clamp(min=0)]
            visible = visible | (is_above & (query_piece >= 0) & (key_piece >= 0))
        if is_causal:
            in_time = key <= query
            visible = visible & (in_time if is_open is None else in_time | is_open[row, key])
        if distance is not None:
            visible = visible & reaches(position[row, query], position[row, key], distance, num_global)
        return visible

    return sees
