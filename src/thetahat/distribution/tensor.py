"""Products that several ranks compute together, each with some heads, inner columns and tokens of the vocabulary.

Tensor parallelism: Shoeybi et al., Megatron-LM, 2019, arXiv 1909.08053. The residual stream is whole on every rank.
What reads from it is divided by rows, what writes into it by columns, and a sum over ranks stands behind each of these.
Parameters are DTensors, of which a rank has its part; a module reads that in place of the whole.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast, final

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.nn.functional import embedding, pad

from thetahat.core.errors import ConfigError
from thetahat.distribution.exchange import fork, join, largest
from thetahat.distribution.pieces import GROUP, share_of

READERS = frozenset({"query", "key", "value", "value_gate", "gate", "up"})  # matrices that read the residual stream
WRITERS = frozenset({"output", "down"})  # matrices that write into it
NORMS = frozenset({"query_norm", "key_norm"})  # over the width of a head, with one gain for all heads
Change = Callable[[Tensor], Tensor]  # of a parameter, for the time of a call


def refuse_empty(model: nn.Module, size: int) -> None:
    """Raises ConfigError where one of so many ranks would have nothing of what `split` divides."""
    matrices = {READERS: 0, WRITERS: 1}
    lengths = [cast(nn.Embedding, model.embedding).num_embeddings]
    for name, module in model.named_modules():
        for names, axis in matrices.items():
            if name.rpartition(".")[2] in names:
                lengths.append(cast(Tensor, getattr(module, "base", module).weight).shape[axis])
    for length in lengths:
        _refuse_nothing(length, size)


def _refuse_nothing(length: int, size: int) -> None:
    if not share_of(length, size - 1, size)[1]:
        raise ConfigError(
            f"mesh.tensor={size} leaves a rank nothing of {length} inner columns or tokens",
            cure="a smaller mesh.tensor, or mesh.shards",
        )


def split(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divides the products of a model over the ranks of a mesh of one axis, which then read each batch together.

    Its parameters must have no values yet. Raises ConfigError where a rank would have nothing.
    """
    parts = _Split(mesh)
    ways = {
        **dict.fromkeys(READERS, parts.reader),
        **dict.fromkeys(WRITERS, parts.writer),
        **dict.fromkeys(NORMS, parts.norm),
        **dict.fromkeys(("relative_embedding", "value_embedding"), parts.by_heads),
        "slopes": parts.some_heads,
    }
    for name, module in [*model.named_modules()]:
        if (way := ways.get(name.rpartition(".")[2])) is not None:
            way(module)
        if any(child in READERS for child, _ in module.named_children()):
            parts.forked(module)
        if hasattr(module, "cross_attention"):
            parts.source(module)
    parts.vocabulary(cast(nn.Embedding, model.embedding), cast(nn.Module, model.head))
    setattr(model, GROUP, parts.group)


@final
class _Split:
    """How modules are divided, each kind in its way."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh, self.group = mesh, mesh.get_group()
        self._fork = partial(fork, group=self.group)
        self._made: dict[int, nn.Parameter] = {}  # by the whole one: a tied matrix stays one

    def reader(self, matrix: nn.Module) -> None:
        """Its rows, and with them what comes out of it. Beside it may lie the thin matrices of an adapter."""
        if (base := getattr(matrix, "base", None)) is not None:
            _read_by(matrix, self._divide(matrix, lora_out=0) | {"lora_in": self._fork})
        inner = matrix if base is None else cast(nn.Module, base)
        _read_by(inner, self._divide(inner, weight=0, bias=0))

    def writer(self, matrix: nn.Module) -> None:
        """Its columns, and so a part of each sum that comes out of it."""
        if (base := getattr(matrix, "base", None)) is not None:
            _read_by(matrix, self._divide(matrix, lora_in=1) | {"lora_out": self._fork})
        inner = matrix if base is None else cast(nn.Module, base)
        _read_by(inner, self._divide(inner, weight=1) | {"bias": self._in_parts})
        matrix.register_forward_hook(partial(_joined, self.group))

    def forked(self, module: nn.Module) -> None:
        """What it reads is whole, and each rank has a part of its gradient. Of an attention it has some heads."""
        if getattr(module, "sinks", None) is not None:
            _read_by(module, self._divide(module, sinks=0))
        module.register_forward_pre_hook(partial(_forked, self.group))

    def source(self, block: Any) -> None:
        """The states of a source are read by a method of a block."""
        remember = block.remember

        def remembered(states: Tensor) -> Any:
            return remember(self._fork(states))

        block.remember = remembered

    def norm(self, module: nn.Module) -> None:
        """Each rank has the part of its gradient that comes from its heads."""
        _read_by(module, dict.fromkeys(("gain", "bias"), self._fork))

    def by_heads(self, table: nn.Module) -> None:
        """A column, or several, a head."""
        _read_by(table, self._divide(table, weight=1))

    def some_heads(self, module: nn.Module) -> None:
        """The heads that are computed here, of a module without parameters."""
        first, number = share_of(cast(int, module.num_heads), self.mesh.get_local_rank(), self.mesh.size())
        cast(Any, module).heads = slice(first, first + number)

    def vocabulary(self, table: nn.Embedding, head: nn.Module) -> None:
        """Rows of the table of tokens and of the head, which may be one matrix; a head over labels stays whole."""
        is_of_labels = len(cast(Tensor, head.weight)) != table.num_embeddings
        cast(Any, table).forward = partial(_embed, table, self.group)
        _read_by(table, self._divide(table, weight=0))
        if not is_of_labels:
            _read_by(head, self._divide(head, weight=0, bias=0))
            part = Vocabulary(head, table.num_embeddings, self.group)
            cast(Any, head).part, head.forward = part, part.forward

    def _divide(self, module: nn.Module, **axes: int) -> dict[str, Change]:
        """Takes this rank's parts of parameters in their place; how the module then reads them."""
        for name, whole in [*module.named_parameters(recurse=False)]:
            if name in axes:
                if id(whole) not in self._made:
                    self._made[id(whole)] = self._part_of(whole, axes[name])
                setattr(module, name, self._made[id(whole)])
        return dict.fromkeys(axes, _local)

    def _part_of(self, whole: Tensor, axis: int) -> nn.Parameter:
        shape, size = list(whole.shape), self.mesh.size()
        _refuse_nothing(shape[axis], size)
        shape[axis] = share_of(shape[axis], self.mesh.get_local_rank(), size)[1]
        local = torch.empty(shape, dtype=whole.dtype, device="meta")
        stride = whole.stride()
        part = DTensor.from_local(local, self.mesh, [Shard(axis)], run_check=False, shape=whole.shape, stride=stride)
        return nn.Parameter(part, whole.requires_grad)

    def _in_parts(self, parameter: Tensor) -> Tensor:
        """What is added on every rank before a sum over them."""
        return self._fork(parameter) / self.mesh.size()


@final
class Vocabulary:
    """The logits of this rank's tokens, and what is found of those of all ranks."""

    def __init__(self, head: nn.Module, num_tokens: int, group: dist.ProcessGroup) -> None:
        self._head, self._read = head, head.forward
        self._num_tokens, self._group = num_tokens, group
        self.first, self.size = share_of(num_tokens, dist.get_rank(group), dist.get_world_size(group))
        self.most = share_of(num_tokens, 0, dist.get_world_size(group))[1]  # that a rank has

    def logits(self, hidden: Float[Tensor, "*axes D"], tokens: slice | None = None) -> Float[Tensor, "*axes v"]:
        """Of this rank's tokens `first`, `first` + 1, ..., or of a slice of these."""
        return self._head(hidden, tokens, of_all=False)  # called as a module is, so that hooks fire

    def forward(
        self, hidden: Float[Tensor, "*axes D"], tokens: slice | None = None, *, of_all: bool = True
    ) -> Float[Tensor, "*axes V"]:
        """The head's: for those who read the logits of all tokens, these on every rank."""
        hidden = fork(hidden, self._group)
        if not of_all:
            return self._read(hidden, tokens)
        mine = self._read(hidden)
        behind = self._num_tokens - self.first - self.size
        logits = self.sum(pad(mine, (self.first, behind)))
        return logits if tokens is None else logits[..., tokens]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks of what each has found."""
        return join(values, self._group)

    def largest(self, values: Tensor) -> Tensor:
        """The largest over ranks, without a gradient."""
        return largest(values, self._group)


def _embed(table: nn.Embedding, group: dist.ProcessGroup, tokens: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes D"]:
    """Rows of the table, each found by the rank that has it."""
    rows = table.weight
    place = tokens - share_of(table.num_embeddings, dist.get_rank(group), dist.get_world_size(group))[0]
    is_here = (place >= 0) & (place < len(rows))
    found = embedding(place.clamp(0, len(rows) - 1), rows)
    return join(torch.where(is_here[..., None], found, 0.0), group)


def _local(parameter: Tensor) -> Tensor:
    return cast(DTensor, parameter).to_local()


def _read_by(module: nn.Module, changes: Mapping[str, Change]) -> None:
    module.forward = _reading(module, changes)


def _reading(module: nn.Module, changes: Mapping[str, Change]) -> Callable[..., Any]:
    """The forward pass of a module with other tensors in the place of its parameters."""
    plain = module.forward

    def forward(*arguments: Any, **named: Any) -> Any:
        own = module.named_parameters(recurse=False)
        read = {name: changes[name](parameter) for name, parameter in own if name in changes}
        module.__dict__.update(read)  # is found before the parameters
        try:
            return plain(*arguments, **named)
        finally:
            for name in read:
                del module.__dict__[name]

    return forward


def _forked(group: dist.ProcessGroup, _module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    first, *rest = arguments
    return (fork(first, group), *rest)


def _joined(group: dist.ProcessGroup, _module: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
    return join(output, group)
