"""The processes that train together; for a single process every operation is the identity."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, final, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn

from thetahat.core.absent import is_absent
from thetahat.core.batch import Batch
from thetahat.core.errors import ConfigError, ThetahatError
from thetahat.distribution import heartbeat
from thetahat.distribution.context import cut
from thetahat.distribution.group import join_group
from thetahat.distribution.mesh import Layout, MeshConfig, Share, lay_out, refuse_ranks
from thetahat.distribution.pieces import expect_backward, is_in_shards, piece, stage_of, sum_over_homes, whole

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A batch, and where in its step it is read: dropout depends on it."""

    rank: int
    index: int  # among the micro-batches of the rank
    batch: Batch  # on the host


@dataclass(frozen=True, slots=True)
class Turn:
    """What is read next in a step."""

    micro: MicroBatch
    backward: Callable[[Tensor], None]  # is called with what the gradient is of; it may be made later
    is_told: bool = True  # whether the objective tells what it computes, which it does once a micro-batch


@runtime_checkable
class Ranks(Protocol):
    """What a step asks of the ranks that make it together."""

    def micro_batches(self, batches: Sequence[Batch]) -> Iterator[MicroBatch]:
        """Each micro-batch of this process."""
        ...

    def turns(self, batches: Sequence[Batch], model: nn.Module, num_at_once: int = 1) -> Iterator[Sequence[Turn]]:
        """The same in the order in which they are read, each perhaps several times; at most so many at once."""
        ...

    def sum_of(self, parts: Sequence[Tensor], zero: Tensor) -> Tensor:
        """The sum of one part a micro-batch: on each rank in their order, from `zero` on, and then over ranks."""
        ...

    def sum_of_turns(self, parts: Sequence[Tensor], zero: Tensor) -> Tensor:
        """The same of what turns have computed."""
        ...

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its sum over ranks; a rank without targets contributes zeros."""
        ...


@final
class World:
    """Sums over ranks. It never averages: a mean needs the weight of the global batch, which the objective knows."""

    def __init__(self, rank: int = 0, size: int = 1, layout: Layout | None = None) -> None:
        self.rank = rank
        self.size = size
        self.layout = layout or Layout(Share(rank, size), Share(), Share(rank, size))

    @property
    def data(self) -> Share:
        """The part of each global batch that this rank reads."""
        return self.layout.data

    @property
    def num_shards(self) -> int:
        """Ranks that hold one model together."""
        return 1 if self.layout.shards is None else self.layout.shards.size(-1)

    @property
    def product(self) -> Share:
        """The part of each product that this rank computes."""
        mesh = self.layout.tensor
        return Share() if mesh is None else Share(mesh.get_local_rank(), mesh.size())

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def micro_batches(self, batches: Sequence[Batch]) -> Iterator[MicroBatch]:
        """Each micro-batch of this rank."""
        return (MicroBatch(self.layout.reader.rank, index, batch) for index, batch in enumerate(batches))

    def turns(self, batches: Sequence[Batch], model: nn.Module, num_at_once: int = 1) -> Iterator[Sequence[Turn]]:
        """Each micro-batch once, but where this rank is a stage of a pipeline, which has an order of its own."""
        if (stage := stage_of(model)) is not None:
            yield from ((turn,) for turn in stage.turns(self.micro_batches(batches)))
            return
        each = [*self.micro_batches(batches)]
        turns = [Turn(one, partial(backward, model=model, is_last=one is each[-1])) for one in each]
        yield from (turns[first : first + num_at_once] for first in range(0, len(turns), num_at_once))

    def sum_of(self, parts: Sequence[Tensor], zero: Tensor) -> Tensor:
        """The sum of one part a micro-batch, in their order, from `zero` on; and then over ranks."""
        return self.sum(sum(parts, start=zero))

    def sum_of_turns(self, parts: Sequence[Tensor], zero: Tensor) -> Tensor:
        """The same of what turns have computed, which is nothing but on the last stage of a pipeline."""
        return self.sum_of_stages(self.sum_of(parts, zero))

    def sum_of_stages(self, value: Tensor) -> Tensor:
        """The sum over the stages of a pipeline, on each of them."""
        stages = self.layout.stages
        return value if stages is None else _sum(value, stages.group)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks that have read different things, on every rank: what several read alike counts once."""
        return _sum(value, self.layout.readers) if self.layout.reader.size > 1 else value

    def sum_of_all(self, value: Tensor) -> Tensor:
        """The sum over all processes, on every rank: of votes, and of what one of them knows."""
        return _sum(value) if self.size > 1 else value

    def cut(self, batch: Batch) -> Batch:
        """The positions of a batch that this rank reads: all, unless several read it together."""
        group = self.layout.context_group
        return batch if group is None else cut(batch, self.layout.context, group)

    def sum_of_row(self, value: Tensor) -> Tensor:
        """The sum over the ranks that read the same rows, on each of them."""
        group = self.layout.context_group
        return value if group is None else _sum(value, group)

    def largest(self, number: int) -> int:
        """The largest over ranks, on every rank."""
        if self.size == 1:
            return number
        most = torch.tensor(number)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its sum over ranks; a rank without targets contributes zeros.

        Those of parameters in shards were summed by the backward pass.
        """
        if self.layout.reader.size == 1 and self.layout.stages is None:
            return
        heartbeat.at("gradient sum and update", pace="stall")
        trained = [one for one in parameters if one.requires_grad and not is_absent(one)]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sum_over_homes(trained)
        gradients = [piece(one.grad) for one in trained if one.grad is not None and not is_in_shards(one)]
        if self.layout.reader.size == 1:
            return
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat, group=self.layout.readers)
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def gather(self, rows: Shaped[Tensor, "N *axes"]) -> list[Shaped[Tensor, "n *axes"]]:  # noqa: F821 - shapes
        """The rows of all ranks in their order, on the first rank; on the others an empty list.

        Of ranks that have read the same, those of the first; of the stages of a pipeline all, since one has them.
        """
        if self.layout.stages is not None:
            return _gather(rows, Share(self.rank, self.size), None)
        found = _gather(rows, self.layout.reader, self.layout.readers)
        return found if self.is_first else []

    def homes(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """The first stage of the pipeline that has each of these; without one all are here."""
        stages = self.layout.stages
        if stages is None:
            return dict.fromkeys(tensors, 0)
        first = torch.tensor([stages.share.size if one.is_meta else stages.share.rank for one in tensors.values()])
        dist.all_reduce(first, dist.ReduceOp.MIN, group=stages.group)
        return dict(zip(tensors, first.tolist(), strict=True))

    def whole(self, tensor: Tensor, home: int) -> Tensor:
        """All of a tensor that a stage has, on every rank; all of them must ask, in the same order."""
        found, stages = whole(tensor.detach()), self.layout.stages
        if stages is None:
            return found
        if found.is_meta:
            found = piece(found).new_empty(found.shape)
        found = found.contiguous()
        dist.broadcast(found, group=stages.group, group_src=home)
        return found

    def gather_json(self, value: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What each process has to say, in their order, on the first; on the others an empty list."""
        each = _gather(_letters(value), Share(self.rank, self.size), None)
        return [json.loads(bytes(said.tolist())) for said in each]

    def all_json(self, value: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What each process has to say, in their order, on every one."""
        text = _letters(value)
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(text)
        lengths = self.sum_of_all(lengths)
        said = torch.zeros(self.size, int(lengths.max()), dtype=torch.uint8)
        said[self.rank, : len(text)] = text
        rows = zip(self.sum_of_all(said), lengths.tolist(), strict=True)
        return [json.loads(bytes(row[:length].tolist())) for row, length in rows]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; the result is the same on every rank, so all act alike."""
        return bool(self.sum_of_all(torch.tensor(int(flag))).item()) if self.size > 1 else flag

    def first_does(self, action: Callable[[], T]) -> T | None:
        """Runs `action` on the first rank while the others wait; if it fails there, all ranks raise."""
        result, error = None, None
        if self.is_first:
            try:
                result = action()
            except Exception as raised:  # noqa: BLE001 - raised again below, when all ranks know
                error = raised
        self.raise_together(error)
        return result

    def raise_together(self, error: Exception | None) -> None:
        """Raises on every rank where one has an error: that, or that another rank stopped."""
        failed = torch.zeros(self.size, dtype=torch.int64)
        failed[self.rank] = error is not None
        stopped = self.sum_of_all(failed).nonzero().flatten().tolist()
        if stopped:
            who = "the first rank" if stopped[0] == 0 else f"rank {stopped[0]}"
            raise error or ThetahatError(f"{who} stopped; its message says why")

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Ends the process group, once all ranks have come here."""
        if self.size > 1 and dist.is_initialized():
            dist.barrier()
            heartbeat.leave()
            dist.destroy_process_group()


ALONE = World()
"""One process."""


def _letters(value: Mapping[str, Any]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def backward(of: Tensor, model: nn.Module, *, is_last: bool) -> None:
    """The backward pass of a micro-batch; behind the last one of a step, gradients in shards are summed over ranks."""
    expect_backward(model, is_last=is_last)
    of.backward()


def _sum(value: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    total = value.clone()
    dist.all_reduce(total, group=group)
    return total


def _gather(
    rows: Shaped[Tensor, "N *axes"],  # noqa: F821 - shapes
    share: Share,
    group: dist.ProcessGroup | None,
) -> list[Shaped[Tensor, "n *axes"]]:  # noqa: F821
    """The rows of all ranks of a group in their order, on its first; on the others an empty list."""
    if share.size == 1:
        return [rows]
    counts = torch.zeros(share.size, dtype=torch.int64)
    counts[share.rank] = len(rows)
    counts = _sum(counts, group).tolist()
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    into = [torch.empty_like(padded) for _ in counts] if share.rank == 0 else None
    dist.gather(padded, into, group=group, group_dst=0)
    return [whole[:count] for whole, count in zip(into, counts, strict=True)] if into else []


def _buckets(tensors: list[Tensor], num_bytes: int = 64 * 2**20) -> Iterable[list[Tensor]]:
    """Consecutive tensors of one dtype, together at most about 64 MiB or one tensor."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.nbytes > num_bytes or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


_WHOLE = MeshConfig()


def join_world(device: str, mesh: MeshConfig = _WHOLE) -> World:
    """The world that `torchrun` describes in the environment, with gloo on CPUs and nccl on GPUs; else one process."""
    size = described_size()
    refuse_ranks(mesh, size)  # before ranks meet
    if size == 1:
        return World(layout=lay_out(mesh, 0, 1, device))
    if device == "cuda":
        take_gpu()
    if not dist.is_initialized():
        join_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    heartbeat.begin(dist.get_rank(), size)
    return World(dist.get_rank(), size, lay_out(mesh, dist.get_rank(), size, device))


def take_gpu() -> None:
    """Makes the GPU of this rank the one that `cuda` means; raises ConfigError where the machine has fewer GPUs."""
    local = int(os.environ.get("LOCAL_RANK", "0")) if described_size() > 1 else 0
    if local >= (number := torch.cuda.device_count()):
        raise ConfigError(
            f"rank {local} of this machine has no GPU: it has {number}",
            cure=f"torchrun --nproc-per-node {max(number, 1)}, or device=cpu",
        )
    torch.cuda.set_device(local)


def described_size() -> int:
    """WORLD_SIZE of the environment; raises ConfigError if the variables that go with it are missing."""
    described = os.environ.get("WORLD_SIZE", "1")
    if not (described.isascii() and described.isdigit() and int(described) > 0):
        raise ConfigError(f"WORLD_SIZE={described!r} in the environment", allowed="a whole number above 0, or nothing")
    wanted = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    if int(described) > 1 and (missing := [name for name in wanted if name not in os.environ]):
        raise ConfigError(
            f"WORLD_SIZE={described} in the environment, but no {', '.join(missing)}",
            cure="torchrun --nproc-per-node N -m thetahat ..., which sets them all; or unset WORLD_SIZE",
        )
    return int(described)
