"""Proves on a config and its data that the objective does not depend on how a batch is cut.

Every equivalence runs the trainer's own `step` on the same sequences, cut another way, and compares value and gradient.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from thetahat.core.config import from_toml, to_toml
from thetahat.core.errors import ConfigError, DataError
from thetahat.core.plain import fields_as_json
from thetahat.core.random import generator
from thetahat.distribution.launch import launch
from thetahat.distribution.mesh import MeshConfig, Share
from thetahat.distribution.world import World, join_world
from thetahat.model.config import Dtype
from thetahat.proof.bench import Bench, Outcome
from thetahat.proof.literal import prefix_by_prefix
from thetahat.run.base import resolved
from thetahat.run.config import RunConfig
from thetahat.run.machine import set_up
from thetahat.run.prepare import check_layout, prepare

BOUNDS: dict[Dtype, float] = {"float64": 1e-12, "float32": 2e-6, "bfloat16": 3e-2}
"""The largest relative error that rounding explains, unless the plain step's own rounding says more."""

MARGIN = 4
"""Two steps may be twice as far apart as each is from the truth, and that is twice the most that was measured at most.

In 150 decoders of width 6 with 4 ways each, the largest distance was 2.4 times what was measured.
"""

NUM_DRAWS = 3
"""Of the rounding of the plain step: at its parameters and nearby. A single one may be small by chance."""

CEILINGS: dict[Dtype, float] = {"float64": 1e-12, "float32": 1e-4, "bfloat16": 1e-1}
"""The most rounding that a step may have at all, against float64; what is wrong is wrong by far more."""


TIPPED: dict[Dtype, float] = {"float64": 1e-12, "float32": 1e-1, "bfloat16": 5e-1}
"""The bound where rounding has tipped a choice between experts of all but equal scores, which float64 does not do."""


@dataclass(frozen=True, slots=True)
class Equivalence:
    """The errors of one way to compute the step, compared with the plain way."""

    name: str
    dtype: str
    value_error: float  # relative; for perturbations, nats
    max_relative_gradient_error: float  # over tensors, ‖g - g₀‖ / max(‖g₀‖, 10⁻³‖G₀‖)
    bound: float

    @property
    def holds(self) -> bool:
        """Whether both errors are within what rounding explains; NaN is not."""
        return self.value_error <= self.bound and self.max_relative_gradient_error <= self.bound

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return fields_as_json(self) | {"holds": self.holds}


def verify(config: RunConfig, *, ranks: Sequence[int] = (2, 3)) -> Iterator[Equivalence]:
    """Yields each equivalence as it is measured: in float64, and in the config's own dtype.

    Ranks are started on the CPU, in each layout that so many can have and that can divide the model. Under torchrun its
    ranks are compared with one process instead, on their devices and in the layout of `mesh`; each yields the same.
    """
    config = resolved(config)
    check_layout(config)
    world = join_world(set_up(config).type, config.mesh)
    dtypes: list[Dtype] = list(dict.fromkeys(("float64", config.dtype)))
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare(config, folder, World())
        plains: dict[Dtype, Plain] = {dtype: Plain.of(Bench(config, prepared, dtype)) for dtype in dtypes}
        if world.size > 1:
            for dtype, plain in plains.items():
                yield plain.compared_with(_layout(world), _outcome(Bench(config, prepared, dtype), world))
            return
        for plain in plains.values():
            yield from _cuttings(plain)
            yield from _perturbations(plain.bench)
        on_cpu = replace(config, device="cpu")
        if config.device != "cpu":
            plains = {dtype: Plain.of(Bench(on_cpu, prepared, dtype)) for dtype in dtypes}
        for size in ranks:
            (folder / "config.toml").write_text(to_toml(on_cpu), encoding="utf-8")
            launch(_rank, size, name, dtypes)
            for dtype in dtypes:
                for path in sorted(folder.glob(f"*.{dtype}.safetensors")):
                    yield plains[dtype].compared_with(path.name.partition(".")[0], _read(path))
                    path.unlink()


@dataclass(frozen=True, slots=True)
class Plain:
    """The plain way, with which all others are compared: all sequences in one micro-batch, one a row."""

    bench: Bench
    outcome: Outcome
    to_float64: Equivalence  # the same way in float64, whose distance is this dtype's rounding
    rounding: float  # the largest such distance, of this and of steps at nearby parameters

    @staticmethod
    def of(bench: Bench) -> "Plain":
        """The plain step in the bench's dtype, and how far rounding takes it from float64."""
        dtype, outcome = bench.config.dtype, bench.outcome([bench.batch(bench.rows())])
        if dtype == "float64":
            return Plain(bench, outcome, Equivalence("to-float64", dtype, 0.0, 0.0, CEILINGS[dtype]), 0.0)
        exact = Bench(bench.config, bench.prepared, "float64")
        truth = exact.outcome([exact.batch(exact.rows())])
        to_float64 = _distance("to-float64", dtype, truth, outcome, CEILINGS[dtype])
        nearby = [_rounding(exact, bench, draw) for draw in range(1, NUM_DRAWS)]
        return Plain(bench, outcome, to_float64, max(to_float64.max_relative_gradient_error, *nearby))

    def compared_with(self, name: str, other: Outcome) -> Equivalence:
        """The distance of another way from this one, and the bound that rounding sets to it."""
        dtype = self.bench.config.dtype
        bound = max(BOUNDS[dtype], min(MARGIN * self.rounding, 2 * CEILINGS[dtype]))
        return _distance(name, dtype, self.outcome, other, bound)


def _rounding(exact: Bench, bench: Bench, draw: int) -> float:
    """How far rounding takes the plain step from float64 at nearby parameters; 0 where it has tipped a choice there."""
    truth, found = (one.outcome([one.batch(one.rows())], draw=draw) for one in (exact, bench))
    is_tipped = truth.loads is not None and found.loads is not None and not truth.loads.equal(found.loads)
    return 0.0 if is_tipped else gradient_distance(truth.gradients, found.gradients)


def _cuttings(plain: Plain) -> Iterator[Equivalence]:
    bench = plain.bench
    count = len(bench.units)
    order = torch.randperm(count, generator=generator(bench.config.seed, "verify order")).numpy()
    groups = {
        "one-by-one": [np.array([index]) for index in range(count)],
        "ragged-accumulation": [group for group in np.split(np.arange(count), [1, 4]) if len(group)],
        "shuffled": [order],
    }
    for name, parts in groups.items():
        batches = [bench.batch(bench.rows(part)) for part in parts]
        yield plain.compared_with(name, bench.outcome(batches))
    wide = bench.batch(bench.rows(), row_length=bench.longest + 17)
    yield plain.compared_with("padded", bench.outcome([wide]))
    yield plain.compared_with("packed", bench.outcome([bench.batch(bench.in_few_rows())]))
    yield plain.compared_with("chunked", bench.outcome([bench.batch(bench.rows())], chunk_size=7))
    if bench.config.dtype != "float64":
        yield plain.to_float64
    elif bench.config.objective.factorization.is_left_to_right:  # rounding cannot hide a difference
        yield _distance(
            "prefix-by-prefix", "float64", *prefix_by_prefix(bench.unpenalised(), max_positions=24), BOUNDS["float64"]
        )


def _perturbations(bench: Bench) -> Iterator[Equivalence]:
    """Changes that must have no effect: of other documents in the row, of the target itself, and of what follows it.

    With how many others a position shares its experts depends on what these choose, and the last bits of a product on
    how many rows it has. So with experts there is a bound, in float64.
    """
    dtype, has_experts = bench.config.dtype, bench.config.model.experts is not None
    if has_experts and dtype != "float64":
        return
    bound = BOUNDS["float64"] if has_experts else 0.0
    yield Equivalence("no-leak", dtype, bench.leak(), 0.0, bound)
    yield Equivalence("no-look-ahead", dtype, bench.look_ahead(), 0.0, bound)


def _distance(name: str, dtype: Dtype, plain: Outcome, other: Outcome, bound: float) -> Equivalence:
    value_error = abs(other.value - plain.value) / abs(plain.value)
    if plain.loads is not None and other.loads is not None and not plain.loads.equal(other.loads):
        bound = TIPPED[dtype]
    return Equivalence(name, dtype, value_error, gradient_distance(plain.gradients, other.gradients), bound)


def gradient_distance(plain: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    r"""$\max_k \lVert g_k - g_{0,k} \rVert / \max(\lVert g_{0,k} \rVert, 10^{-3} \lVert G_0 \rVert)$ over tensors k.

    $G_0$ is the whole plain gradient; it keeps a tensor whose gradient is all but zero from dividing by nothing.
    """
    if set(plain) != set(other):
        raise DataError(f"gradients of other tensors: {sorted(set(plain) ^ set(other))[:3]}")
    whole = sum(float(g.double().norm()) ** 2 for g in plain.values()) ** 0.5
    errors = [
        float((other[name].double() - g.double()).norm()) / max(float(g.double().norm()), 1e-3 * whole)
        for name, g in plain.items()
    ]
    return max(errors) if all(error == error for error in errors) else float("nan")


def _rank(name: str, dtypes: list[Dtype]) -> None:
    """The work of one of several ranks, in each layout that so many can have."""
    folder = Path(name)
    config = from_toml((folder / "config.toml").read_text(encoding="utf-8"), RunConfig)
    set_up(config)
    size = join_world("cpu").size
    meshes = [MeshConfig(), MeshConfig(shards=size), MeshConfig(context=size), MeshConfig(tensor=size)]
    meshes += [MeshConfig(shards=size // 2, tensor=2)] if size % 2 == 0 and size > 2 else []
    meshes += [MeshConfig(pipeline=size), MeshConfig(pipeline=size, turns=2)]
    worlds = [join_world("cpu", mesh) for mesh in meshes]
    prepared = prepare(config, folder, World())
    for dtype, world in product(dtypes, worlds):
        try:
            outcome = _outcome(Bench(config, prepared, dtype), world)
        except ConfigError:
            if world.layout.tensor is None and world.layout.stages is None:
                raise
            continue  # the products or the layers of this model cannot be divided over so many ranks
        if world.is_first:
            tensors = {f"gradient {key}": value for key, value in outcome.gradients.items()}
            tensors["value"] = torch.tensor(outcome.value, dtype=torch.float64)
            if outcome.loads is not None:
                tensors["loads"] = outcome.loads
            save_file(tensors, folder / f"{_layout(world)}.{dtype}.safetensors")
    worlds[0].leave()


def _layout(world: World) -> str:
    """For example 2-ranks, 2-shards, 2x2-shards, 4-shards-2-context, 2-shards-2-tensor, 2-pipeline-2-turns."""
    stages, turns = (world.layout.stages.share.size, world.layout.stages.turns) if world.layout.stages else (1, 1)
    names = {"shards": world.num_shards, "context": world.layout.context.size, "tensor": world.product.size}
    names |= {"pipeline": stages, "turns": turns}
    together = (world.num_shards if world.num_shards > 1 else world.layout.context.size) * world.product.size * stages
    replicas = world.size // together
    told = "-".join(f"{number}-{name}" for name, number in names.items() if number > 1)
    return f"{world.size}-ranks" if not told else told if replicas == 1 else f"{replicas}x{told}"


def _outcome(bench: Bench, world: World) -> Outcome:
    """The step of this rank and the others: unequal shares of the sequences; the last of more than two has none.

    Through the stages of a pipeline goes a micro-batch for each sequence, so that several are under way.
    """
    rank, size = world.data
    shares = [_share(bench.units, Share(one, size)) for one in range(size)]
    if world.layout.stages is not None:
        parts = [[*share[:, None]] for share in shares]
    else:
        parts = [[share] if len(share) else [] for share in shares]
    batches = [bench.batch(bench.rows(part)) for part in parts[rank]]
    if world.layout.shards is not None:
        most = max(map(len, parts))
        batches += [bench.batch(bench.rows(bench.units[:1])).idle()] * (most - len(batches))
    return bench.outcome([world.cut(batch) for batch in batches], world)


def _share(units: Int[np.ndarray, " n"], share: Share) -> Int[np.ndarray, " n"]:
    rank, size = share
    busy = max(size - 1, 1) if size > 2 else size
    bounds = {0: units[:1], busy - 1: units[busy - 1 :]} if busy > 1 else {0: units}
    return bounds.get(rank, units[:0])


def _read(path: Path) -> Outcome:
    tensors = load_file(path)
    value, loads = float(tensors.pop("value")), tensors.pop("loads", None)
    return Outcome(value, {name.removeprefix("gradient "): tensor for name, tensor in tensors.items()}, loads)
