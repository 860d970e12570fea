"""Where the time of a step goes, by kind of work: a profile of torch, summed up."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch._C._autograd import DeviceType

from thetahat.core.work.regions import DATA, OBJECTIVE, UPDATE
from thetahat.proof.speed.workers import WAITING

STEP = "thetahat: step"  # around all of it, or what a thread does of it

PRODUCTS, ATTENTION, ELEMENTWISE, COPIES = "products", "attention", "norms and elementwise", "copies and casts"
SCORED, UPDATED, FED, WAITS = "objective", "optimizer", "data", "host waits for the device"
HOST, IDLE = "Python between operations", "device waits for the host"
KINDS = (PRODUCTS, ATTENTION, ELEMENTWISE, COPIES, SCORED, UPDATED, FED, WAITS, HOST, IDLE)

_OF_REGION: Mapping[str, str] = {DATA: FED, UPDATE: UPDATED, OBJECTIVE: SCORED}
_IN_PRODUCTS = {"mm", "addmm", "linear", "_addmm_activation", "addmv", "mv", "_scaled_mm", "_grouped_mm"}
_IN_ATTENTION = {"bmm", "baddbmm", "_softmax", "_softmax_backward_data", "_safe_softmax"}  # heads are in batches
_IN_COPIES = {"copy_", "_to_copy", "clone", "contiguous", "cat", "_pin_memory", "fill_", "zero_"}
_IN_WAITS = {"_local_scalar_dense", "item", "is_nonzero", "_pin_memory"}
_RUNTIME_WAITS = ("StreamSynchronize", "DeviceSynchronize", "EventSynchronize", "StreamWaitEvent")
_ENGINE = "autograd::engine::evaluate_function"


@runtime_checkable
class Event(Protocol):
    """What is read of an event of torch's profiler; times are in µs."""

    name: str
    device_type: Any
    cpu_parent: Any
    sequence_nr: int  # shared by an operation and what makes its gradient; -1: none
    kernels: Any  # of the device, that it has launched

    @property
    def self_cpu_time_total(self) -> float:
        """On the host, without what it calls."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """The time of one kind of work in a step."""

    kind: str
    seconds: float
    share: float  # of the step


def shares_of(events: Iterable[Event], num_steps: int, seconds: float, *, on_device: bool) -> tuple[Share, ...]:
    """The time of each kind in a step that takes so many `seconds` under the profiler; shares add up to 1.

    On a CPU operations are counted by the time of the host's threads that call them, all threads together. On a device,
    by that of the kernels they launch, and what is left of the step the device has nothing to do.
    """
    found = [one for one in events if one.device_type == DeviceType.CPU and one.name != WAITING]
    behind = {event.sequence_nr: OBJECTIVE for event in found if event.sequence_nr >= 0 and _is_scored(event)}
    spent: dict[str, float] = defaultdict(float)
    for event in found:
        micros = sum(kernel.duration for kernel in event.kernels) if on_device else _own_time(event)
        if micros > 0:
            spent[_kind_of(event, behind)] += micros / 1e6 / num_steps
    if on_device:
        spent.pop(HOST, None)
        spent[IDLE] = max(seconds - sum(spent.values()), 0.0)
    whole = sum(spent.values())
    return tuple(Share(kind, spent[kind], spent[kind] / whole) for kind in KINDS if spent.get(kind))


def _own_time(event: Event) -> float:
    """Within a step, or on a thread of the backward pass; what else the process does is no part of it."""
    is_part = any(one.name == STEP or one.name.startswith(_ENGINE) for one in _above(event))
    return float(event.self_cpu_time_total) if is_part else 0.0


def _above(event: Event) -> Iterator[Event]:
    """The event, and those that it is a part of."""
    one: Any = event
    while one is not None:
        yield one
        one = one.cpu_parent


def _is_scored(event: Event) -> bool:
    """Whether an operation of the forward pass belongs to the objective."""
    names = [one.name for one in _above(event)]
    return OBJECTIVE in names and not any(name.startswith(_ENGINE) for name in names)


def _kind_of(event: Event, behind: Mapping[int, str]) -> str:
    region = None
    for one in _above(event):
        region = one.name if one.name in _OF_REGION else region
        if region is None and one.name.startswith(_ENGINE):
            region = behind.get(one.sequence_nr)
    kind, _, name = event.name.rpartition("::")
    if name in _IN_WAITS or name.endswith(_RUNTIME_WAITS):
        return WAITS
    if region in {DATA, UPDATE}:
        return _OF_REGION[region]
    if name in _IN_PRODUCTS:
        return PRODUCTS
    if region == OBJECTIVE:
        return SCORED
    if name in _IN_ATTENTION or "attention" in name or "flex" in name:
        return ATTENTION
    if name in _IN_COPIES:
        return COPIES
    return ELEMENTWISE if kind == "aten" or name.startswith(("triton", "graph", "cpp_fused")) else HOST
