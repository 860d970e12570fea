"""What was measured of a training, and what makes it less than sure."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from thetahat.proof.speed.ceilings import Ceiling
from thetahat.proof.speed.kinds import Share
from thetahat.run.config import RunConfig

NOISY = 0.15  # of the median: a spread from which on it is said
CROWDED = 1.5  # processes that want to run, for each core


@dataclass(frozen=True, slots=True)
class Pace:
    """How long steps take, in seconds, and what they do."""

    median: float
    low: float  # a tenth is quicker
    high: float  # a tenth is slower
    rounds: tuple[float, ...]  # the median of each
    waited: float  # for data, the median
    targets_per_second: float
    positions_per_second: float  # all that is computed, padding too
    padding: float  # share of the positions
    flops: float  # of a step: the forward and the backward pass, of what is visible
    update_flops: float  # of the optimizer: what Muon orthogonalises


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of this process at the most, in a step."""

    measured: int | None  # None: nothing here can see it
    said: int | None  # by `thetahat cost`; None: of shards
    how: str


@dataclass(frozen=True, slots=True)
class Compared:
    """The same model as a plain loop over transformers; its steps and ours took turns."""

    family: str
    ours: float  # nats a target, of one batch
    theirs: float
    seconds: float  # of its step, the median
    ratio: float  # of its step over ours: above 1 ours is quicker; the median of all turns
    low: float  # a tenth is below
    high: float  # a tenth is above
    num_pairs: int


@dataclass(frozen=True, slots=True)
class Benched:
    """What was measured."""

    name: str
    machine: str
    num_ranks: int
    ceilings: tuple[Ceiling, ...]
    pace: Pace
    num_steps: int  # that were measured
    ceiling: float  # FLOP/s of the quickest product, of one rank
    utilisation: float  # forward and backward over what the products of that time could be
    with_update: float  # the same of all operations, the update too
    memory: Memory
    preparing: float  # seconds until the model and its data are there
    first_step: float  # seconds of the first step, with what is compiled in it
    shares: tuple[Share, ...]
    notes: tuple[str, ...]
    peer: Compared | None = None


def machine_of(device: torch.device, config: RunConfig) -> str:
    """The device in words, and the dtype of its products."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {config.dtype}"
    return f"CPU, {config.threads} of {len(os.sched_getaffinity(0))} cores, {config.dtype}"


def with_notes(found: Benched, notes: Sequence[str]) -> Benched:
    """With what makes the numbers less than sure."""
    told, pace = [*notes], found.pace
    if (spread := (pace.high - pace.low) / pace.median) > NOISY:
        told.append(
            f"steps differ by {spread:.0%} of their median (a tenth below {pace.low:.3g} s, a tenth above "
            f"{pace.high:.3g} s): compare by ratio in one run, and not with these numbers"
        )
    worst = max(found.ceilings, key=lambda one: one.spread)
    if worst.spread > NOISY:
        told.append(f"the rate of {worst.what} differed by {worst.spread:.0%} from round to round: the machine is busy")
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > CROWDED * cores:
        told.append(f"{load:.0f} processes want to run on {cores} cores")
    if found.with_update > 1:
        told.append(
            "steps made more operations a second than any product that was measured, which cannot be: other programs "
            "slowed the products down; measure again on a machine that has nothing else to do"
        )
    return replace(found, notes=tuple(told))
