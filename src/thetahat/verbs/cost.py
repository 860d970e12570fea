"""What a training would cost, before anything is loaded: operations, memory, time, energy, GPUs, layouts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from msgspec.structs import replace as changed

from thetahat.core.config import override
from thetahat.core.errors import ConfigError
from thetahat.figures.panel import Curve, Panel
from thetahat.model.cost import flops_per_token, idle_parameters, parameters_by_part
from thetahat.run.config import RunConfig
from thetahat.run.cost.ceiling import measure_rates
from thetahat.run.cost.devices import DEVICES, Device, Rates, find_device, rates_of
from thetahat.run.cost.layout import USABLE, Layout, Task, layout_of, layouts
from thetahat.run.cost.mesh import Mesh, check_mesh, whole_of
from thetahat.run.cost.operations import Operations, Pieces, operations_of
from thetahat.run.cost.pace import Pace, pace_of
from thetahat.run.diagnosis.fitting import fitting_pairs, most_rows
from thetahat.run.diagnosis.needed import Inference, Training, inference_memory, training_memory
from thetahat.run.machine import free_memory, resolve
from thetahat.verbs.asked import Asked, look_at
from thetahat.verbs.plot import Plot

HERE = "here"
MOST_SHARDS = 64  # GPUs that are proposed for what one has no room for
SWEPT = 6  # contexts of a plot that names no values
JOULES = 3.6e6  # in a kWh


@dataclass(frozen=True, slots=True)
class Machines:
    """What a training would run on: `gpus` by name, `num_gpus` of each, laid out as a `mesh`, at a `utilisation`."""

    gpus: tuple[str, ...] = (HERE, *DEVICES)  # names of GPUs; here: this machine, whose products are measured
    num_gpus: int = 1
    mesh: Mesh | None = None  # None: the quickest layout that fits
    utilisation: int | float | None = None  # of the peak, in place of the usual shares of products and attention

    @property
    def num_ranks(self) -> int:
        """GPUs that train together."""
        return self.mesh.num_ranks if self.mesh else self.num_gpus


EVERYWHERE = Machines()


@dataclass(frozen=True, slots=True)
class Placed:
    """A training on one kind of GPU, or on this machine."""

    name: str
    num_gpus: int
    needed: int | float  # bytes of one GPU
    room: int | float  # bytes that tensors may take
    most_rows: int | None  # at once, for which one GPU has room; None where there are several
    cure: str  # what to type where it does not fit
    pace: Pace | None  # of one GPU; None where there are several
    layout: Layout | None  # of several GPUs; None where none fits
    seconds: int | float | None  # of a step
    tokens_per_second: int | float | None  # over all GPUs
    utilisation: int | float | None  # operations that the model needs over the peak, or over what was measured here
    hours: int | float | None  # of the run
    kwh: int | float | None  # of the run, GPUs alone, at the limit of their boards
    written_per_second: int | float  # tokens that it writes alone, behind a text as long as the context

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.needed <= self.room


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one config costs."""

    value: str  # of the key that is changed; empty: the config itself
    context: int
    batch_size: int
    num_parameters: int
    flops_per_token: int  # by the convention: attention as if all were visible
    operations: Operations  # of a step, of what is visible
    memory: Training
    inference: Inference
    placed: tuple[Placed, ...]
    is_float8: bool  # whether maps multiply in float8: memory is theirs, and times are those of products in bfloat16


@dataclass(frozen=True, slots=True)
class Cost:
    """What a training would cost."""

    name: str
    parameters: dict[str, int]  # by part
    num_parameters: int
    num_active: int  # that a token is computed with: of experts those that it chooses
    num_trainable: int
    estimate: Estimate
    layouts: tuple[Layout, ...]  # of the first GPU that was named, where there are several, the quickest first
    over: str  # the key that is changed
    points: tuple[Estimate, ...]  # one for each of its values

    def plot(self) -> Plot:
        """Memory and speed over the values of the key, which must be numbers."""
        return Plot(_panels(self.points or (self.estimate,), self.over), self.over, 1, ())


def cost(
    what: str | RunConfig,
    *,
    training: RunConfig | None = None,
    on: Machines = EVERYWHERE,
    piece: int | float | None = None,
    over: str = "",
) -> Cost:
    r"""What training a MODEL or a config would cost; nothing is read but headers, and nothing is trained.

    Parameters, gradients and optimizer state are exact, and so are operations of full rows; activations are those of
    `model/memory.py`. `piece` is the length of what is packed, $\sum n^2 / \sum n$; None: a row. `over` is a
    key with values, "data.context=1024,4096", each of which is estimated, too. A step takes the time of its products,
    of attention and of the memory that it moves, each at a share of a GPU's published peak that was measured
    (`run/cost/devices.py`); on this machine at what products and copies reach in a moment's measurement. Raises
    ModelError for what is no model, ConfigError for an unknown GPU, or a mesh that divides neither model nor batch.
    """
    asked = look_at(what, training)
    if asked.config is None:
        raise ConfigError(f"{asked.name} was not trained here, and has no config of training", cure="training=CONFIG")
    for name in on.gpus:
        if name != HERE:
            find_device(name)
    mesh = Mesh.of(asked.config.mesh)
    if mesh.num_ranks > 1 and on.mesh is None and on.num_gpus in (1, mesh.num_ranks):
        on = replace(on, mesh=mesh)
    if on.mesh is not None:
        check_mesh(on.mesh, asked.config)
    key, values = _values(over)
    settled = partial(_estimate, on=on, piece=piece, here=_here(asked.config) if HERE in on.gpus else None)
    model = asked.on_meta()
    parts = parameters_by_part(model)
    estimate = settled(asked, "")
    first = next((name for name in on.gpus if name != HERE), None)
    ranked: list[Layout] = []
    if on.num_gpus > 1 and on.mesh is None and first:
        ranked = layouts(_task(asked, find_device(first), on, piece), on.num_gpus)
    return Cost(
        name=asked.name,
        parameters=parts,
        num_parameters=sum(parts.values()),
        num_active=sum(parts.values()) - idle_parameters(model),
        num_trainable=sum(one.numel() for one in model.parameters() if one.requires_grad),
        estimate=estimate,
        layouts=tuple(ranked),
        over=key,
        points=tuple(settled(_changed(asked, f"{key}={value}"), value) for value in values),
    )


def _values(over: str) -> tuple[str, list[str]]:
    """The key and its values."""
    key, equals, values = over.partition("=")
    if over and not (equals and values):
        raise ConfigError(f"{over!r} names no values", allowed="KEY=VALUE,VALUE,...", cure=f"{key}=1024,4096")
    return key, values.split(",") if values else []


def contexts_around(config: RunConfig) -> str:
    """A key with values for a plot that names none: the context of the config, halved and doubled."""
    first = max(config.data.context >> 2, 32)
    return "data.context=" + ",".join(str(first << n) for n in range(SWEPT))


def _changed(asked: Asked, pair: str) -> Asked:
    """The same with one key of its training changed."""
    assert asked.config is not None
    config = override(asked.config, [pair])
    return replace(look_at(config), name=asked.name) if asked.stored is None else replace(asked, config=config)


def _here(config: RunConfig) -> tuple[Rates, int]:
    """What this machine reaches, and the bytes that are free."""
    config = resolve(changed(config, device="auto"))
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        device = torch.device(config.device)
        return measure_rates(device, config.dtype), free_memory(device)
    finally:
        torch.set_num_threads(threads)


def _estimate(
    asked: Asked, value: str, *, on: Machines, piece: int | float | None, here: tuple[Rates, int] | None
) -> Estimate:
    config = asked.config
    assert config is not None
    model = asked.on_meta()
    return Estimate(
        value=value,
        context=config.data.context,
        batch_size=config.batch_size,
        num_parameters=sum(one.numel() for one in model.parameters()),
        flops_per_token=flops_per_token(asked.model, asked.num_rows, config.data.context),
        operations=operations_of(model, config, Pieces(piece, piece), num_ranks=on.num_ranks),
        memory=training_memory(model, config, asked.num_rows, len(asked.labels)),
        inference=inference_memory(model, config.data.context),
        placed=tuple(
            _placed_here(asked, *here, piece) if name == HERE and here else _placed(asked, find_device(name), on, piece)
            for name in on.gpus
            if name != HERE or here
        ),
        is_float8=config.float8,
    )


def _task(asked: Asked, device: Device, on: Machines, piece: int | float | None) -> Task:
    config, model = asked.config, asked.on_meta()
    assert config is not None
    outputs = len(asked.labels) or asked.num_rows
    memory = training_memory(model, config, asked.num_rows, len(asked.labels))
    operations = operations_of(model, config, Pieces(piece, piece), num_ranks=on.num_ranks)
    moved = training_memory(model, changed(config, float8=False), asked.num_rows, len(asked.labels))
    pace = pace_of(config, operations, moved, outputs, rates_of(device, config.dtype, on.utilisation))
    return Task(config, whole_of(model, config, outputs, memory), operations, pace, device)


def _placed(asked: Asked, device: Device, on: Machines, piece: int | float | None) -> Placed:
    task, room = _task(asked, device, on, piece), USABLE * device.memory
    config, num_gpus = task.config, on.num_ranks
    asks = inference_memory(asked.on_meta(), config.data.context)
    writes = device.bandwidth / (asks.parameters + asks.cache)
    if num_gpus == 1:
        memory = _needs(asked, config)
        cure = "" if memory <= room else _cure(asked, task, room)
        mfu = 3 * task.operations.forward / task.pace.seconds / device.peak[config.dtype]
        rows = _most_rows(asked, config, room)
        placed = Placed(device.name, 1, memory, room, rows, cure, task.pace, *_NOT_TIMED, mfu, None, None, writes)
        return _timed(placed, task)
    best = layout_of(task, on.mesh) if on.mesh else next(iter(layouts(task, num_gpus, 1)), None)
    needed = best.memory.total if best else float("inf")
    cure = "" if needed <= room else "more GPUs, or fewer rows and a shorter context on each"
    mfu = best.utilisation if best else None
    placed = Placed(device.name, num_gpus, needed, room, None, cure, None, best, None, None, mfu, None, None, writes)
    return _timed(placed, task)


_NOT_TIMED = (None, None, None)  # layout, seconds, tokens a second


def _timed(placed: Placed, task: Task) -> Placed:
    """With the time of a step and of the run, and its energy."""
    seconds = placed.layout.seconds if placed.layout else placed.pace.seconds if placed.pace else None
    if seconds is None:
        return placed
    run = seconds * task.config.max_steps
    return replace(
        placed,
        seconds=seconds,
        tokens_per_second=task.operations.num_tokens / seconds,
        hours=run / 3600,
        kwh=run * task.device.watts * placed.num_gpus / JOULES if task.device.watts else None,
    )


def _placed_here(asked: Asked, rates: Rates, free: int, piece: int | float | None) -> Placed:
    """Machines this machine: what it reaches is measured; its energy is not known."""
    config = asked.config
    assert config is not None
    device = Device(HERE, free, {config.dtype: rates.products}, rates.bandwidth, 0.0, 1.0, 1.0, 1)
    task = _task(asked, device, Machines(utilisation=1.0), piece)
    needed = _needs(asked, config)
    asks = inference_memory(asked.on_meta(), config.data.context)
    cure = "" if needed <= free else _fewer(asked, config, free)
    mfu = 3 * task.operations.forward / task.pace.seconds / rates.products
    writes = rates.bandwidth / (asks.parameters + asks.cache)
    rows = _most_rows(asked, config, free)
    return _timed(Placed(HERE, 1, needed, free, rows, cure, task.pace, *_NOT_TIMED, mfu, None, None, writes), task)


def _needs(asked: Asked, config: RunConfig) -> int:
    """Bytes of training on one process."""
    return training_memory(asked.on_meta(), config, asked.num_rows, len(asked.labels)).total


def _fewer(asked: Asked, config: RunConfig, room: int | float) -> str:
    """What to change of a config so that one process has room for it."""
    return fitting_pairs(config, lambda one: _needs(replace(asked, config=one), one), int(room))


def _most_rows(asked: Asked, config: RunConfig, room: int | float) -> int:
    """How many rows one process has room for at once."""
    return most_rows(config, lambda one: _needs(replace(asked, config=one), one), int(room))


def _cure(asked: Asked, task: Task, room: int | float) -> str:
    """Fewer rows, logits in chunks, shards over several GPUs, or a shorter context: what changes least."""
    pairs = _fewer(asked, task.config, room)
    if "data.context" not in pairs and "MODEL" not in pairs:
        return pairs
    return next(_sharded(task, room), pairs)


def _sharded(task: Task, room: int | float) -> Iterator[str]:
    shards = 2
    while shards <= MOST_SHARDS:
        if task.config.batch_size % shards == 0:
            rows = task.config.batch_size // shards
            for again in (0.0, 1.0):
                if layout_of(task, Mesh(shards=shards, recomputed=again), 1).memory.total <= room:
                    fewer = "" if rows == 1 else " micro_batch_size=1"
                    blocks = ", and blocks computed again in the backward pass" if again else ""
                    yield f"mesh.shards={shards}{fewer} on {shards} GPUs{blocks}"
        shards *= 2


def _panels(points: Sequence[Estimate], key: str) -> tuple[Panel, ...]:
    try:
        x = {key: np.array([float(one.value or one.context) for one in points])}
    except ValueError:
        values = ", ".join(one.value for one in points)
        raise ConfigError(f"{key}={values} cannot be drawn", allowed="numbers as values") from None
    needed = Curve("one process", 0, x, np.array([one.memory.total / 1e9 for one in points]))
    flops = Curve(
        "training", 0, x, np.array([one.operations.total / one.operations.num_tokens / 1e9 for one in points])
    )
    names = [one.name for one in points[0].placed]
    speeds = [
        Curve(name, number, x, np.array([one.placed[number].tokens_per_second or np.nan for one in points]))
        for number, name in enumerate(names)
    ]
    return (
        Panel("memory of training", "At the worst moment of a step.", "GB", [needed]),
        Panel("operations", "Of what is visible, forward and backward.", "GFLOP a token", [flops]),
        Panel("speed", "Whether it fits or not.", "tokens a second", speeds, is_log=True),
    )
