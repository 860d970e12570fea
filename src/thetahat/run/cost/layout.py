"""Seconds of a step on many GPUs, and the layout that is quickest of those that fit."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from msgspec.structs import replace as changed

from thetahat.core.errors import ConfigError
from thetahat.core.plain import fields_as_json
from thetahat.run.config import RunConfig
from thetahat.run.cost.devices import Device
from thetahat.run.cost.mesh import Mesh, Share, Traffic, Whole, check_mesh, num_micro_batches, share_of, traffic_of
from thetahat.run.cost.operations import Operations
from thetahat.run.cost.pace import Pace

LINK = 0.8
"""Of the published rate of links and networks, in collectives. Not fitted."""
NEAR, FAR = 15e-6, 10e-6
"""Seconds that a collective takes inside a node whatever its size, and for each further node. Not fitted."""
HIDDEN = {"shards": 0.9, "replicas": 0.5, "tensor": 0.3, "context": 0.3, "pipeline": 0.8}
"""The share of an exchange behind which there is work to do meanwhile. Not fitted."""
USABLE = 0.9
"""Of a GPU's memory, by tensors: the rest is for libraries, communication and fragments."""
ALIKE = 0.10
"""Of the time of a step: by less than that two layouts cannot be told apart by a model that is not fitted."""
DEGREES = (1, 2, 4, 8, 16)
RECOMPUTED = (0.0, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Layout:
    """A training over a mesh of GPUs: bytes of a rank, and seconds of a step."""

    mesh: Mesh
    rows: int  # that a rank reads at once
    memory: Share
    traffic: Traffic
    work: int | float  # seconds of the arithmetic and of what waits for memory
    exchange: int | float  # seconds of exchanges that nothing hides
    bubble: int | float  # the share of the step in which a stage of a pipeline waits
    num_tokens: int  # positions of a step, over all ranks
    flops: int | float  # of a step, over all ranks, nothing counted twice, visible pairs alone
    peak: int | float  # FLOP/s of a GPU

    @property
    def seconds(self) -> int | float:
        """Of a step."""
        return (self.work + self.exchange) / (1 - self.bubble)

    @property
    def tokens_per_second(self) -> int | float:
        """Positions a second and GPU."""
        return self.num_tokens / self.seconds / self.mesh.num_ranks

    @property
    def utilisation(self) -> int | float:
        """Operations that the model needs, over the peak."""
        return self.flops / self.seconds / self.mesh.num_ranks / self.peak

    def to_dict(self) -> dict[str, object]:
        """What `--json` prints."""
        derived = ("seconds", "tokens_per_second", "utilisation")
        return fields_as_json(self) | {name: getattr(self, name) for name in derived}


@dataclass(frozen=True, slots=True)
class Task:
    """A training whose layout is asked for: its config, and what one device would do."""

    config: RunConfig
    whole: Whole
    operations: Operations
    pace: Pace  # of one device that made the whole step
    device: Device


def layout_of(task: Task, mesh: Mesh, rows: int | None = None) -> Layout:
    r"""The seconds of a step: $(\text{work} + \text{exchanges that nothing hides}) / (1 - \text{bubble})$.

    Work is that of one device divided by the ranks, the update by the ranks that share parameters, and a pipeline of p
    stages with m micro-batches waits (p - 1) / (m + p - 1) of the time. An exchange takes its bytes over the rate of
    its group and a latency for each call. Raises ConfigError where the mesh does not divide the model or the batch.
    """
    config, pace = task.config, task.pace
    check_mesh(mesh, config)
    config = changed(config, micro_batch_size=rows or config.micro_batch_size)
    passes, ranks = num_micro_batches(mesh, config), mesh.num_ranks
    operations = task.operations
    rate = (operations.total - 3 * operations.attention - operations.update) / pace.products if pace.products else 1.0
    again = mesh.recomputed * (operations.blocks / rate + pace.attention / 3)
    work = (pace.products + pace.attention + pace.memory + again) / ranks
    work += pace.update / mesh.num_parts / mesh.tensor / mesh.pipeline
    traffic = traffic_of(task.whole, mesh, config)
    waits = dict(_waits(task, mesh, traffic, passes))
    exchange = sum(time * (1 - HIDDEN[axis]) for axis, time in waits.items())
    exchange += max(0.0, waits["shards"] * HIDDEN["shards"] - work)  # more than there is work to hide it behind
    rows = min(config.micro_batch_size or config.batch_size, config.batch_size // mesh.num_data)
    return Layout(
        mesh=mesh,
        rows=rows,
        memory=share_of(task.whole, mesh, config),
        traffic=traffic,
        work=work,
        exchange=exchange,
        bubble=(mesh.pipeline - 1) / (passes + mesh.pipeline - 1),
        num_tokens=operations.num_tokens,
        flops=3 * operations.forward,
        peak=task.device.peak[config.dtype],
    )


def _waits(task: Task, mesh: Mesh, traffic: Traffic, passes: int) -> Iterator[tuple[str, int | float]]:
    """Seconds of each kind of exchange. Tensor is the innermost axis, then context, shards, replicas, pipeline."""
    layers = task.config.model.num_layers / mesh.pipeline
    inner = {"tensor": 1, "context": mesh.tensor, "shards": mesh.tensor, "replicas": mesh.tensor * mesh.num_parts}
    ranks = {"tensor": mesh.tensor, "context": mesh.context, "shards": mesh.num_parts, "replicas": mesh.replicas}
    calls = {"tensor": 4 * passes * layers, "context": 2 * passes * layers, "shards": (2 * passes + 1) * layers}
    for axis, within in inner.items():
        bytes_each = getattr(traffic, axis)
        latency = calls.get(axis, 1.0) * _latency(task.device, within, ranks[axis]) if ranks[axis] > 1 else 0.0
        yield axis, bytes_each / _rate(task.device, within, ranks[axis]) + latency
    yield "pipeline", traffic.pipeline / (LINK * task.device.network)


def _rate(device: Device, inner: int, ranks: int) -> int | float:
    """Bytes/s of a rank in a ring: over several nodes all its members of a node share their networks."""
    if inner * ranks <= device.per_node:
        return LINK * device.link
    members = max(min(device.per_node // inner, ranks), 1)
    return LINK * min(device.link, device.network * members)


def _latency(device: Device, inner: int, ranks: int) -> int | float:
    return NEAR + FAR * (max(inner * ranks / device.per_node, 1) - 1)


def layouts(task: Task, num_gpus: int, most: int = 5) -> list[Layout]:
    """Those that fit into the memory of the GPUs, the quickest first; of those within `ALIKE` of it the simplest first.

    Degrees are powers of two; tensor parallelism stays in a node, context parallelism is tried from 8,192 positions on.
    """
    found: list[Layout] = []
    for mesh in _meshes(task, num_gpus):
        rows = task.config.batch_size // mesh.num_data
        while rows:
            layout = layout_of(task, mesh, rows)
            if layout.memory.total <= USABLE * task.device.memory:
                found.append(layout)
                if mesh.pipeline == 1:
                    break  # fewer rows at once are no quicker; in a pipeline they let stages wait less
            rows //= 2
    least = min((one.seconds for one in found), default=0.0) * (1 + ALIKE)
    alike = sorted((one for one in found if one.seconds <= least), key=lambda one: (_complexity(one.mesh), one.seconds))
    slower = sorted((one for one in found if one.seconds > least), key=lambda one: one.seconds)
    return [*alike, *slower][:most]


def _meshes(task: Task, num_gpus: int) -> Iterator[Mesh]:
    config, device = task.config, task.device
    contexts = DEGREES if config.data.context >= 8192 else (1,)
    for tensor, context, pipeline, again in product(DEGREES, contexts, DEGREES, RECOMPUTED):
        inside = tensor * context * pipeline
        if tensor > device.per_node or num_gpus % inside:
            continue
        shards, left = 1, num_gpus // inside
        while shards <= left:
            if left % shards == 0:
                mesh = Mesh(left // shards, shards, context, tensor, pipeline, again)
                try:
                    check_mesh(mesh, config)
                except ConfigError:
                    pass
                else:
                    yield mesh
            shards *= 2


def _complexity(mesh: Mesh) -> int | float:
    """Axes that are used; tensor and context count twice, a pipeline, which needs a schedule, thrice."""
    axes = ((mesh.replicas, 1), (mesh.shards, 1), (mesh.context, 2), (mesh.tensor, 2), (mesh.pipeline, 3))
    return sum(weight for number, weight in axes if number > 1)
