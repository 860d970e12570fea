"""How parameters begin: a pure function of (seed, name), so of nothing that changes with device or rank."""

import re
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from thetahat.core.absent import is_absent
from thetahat.core.random import generator
from thetahat.model.law import Constant, FanIn, Law, Uniform, laws_of
from thetahat.model.transfer.rule import SAME, Growth, factors

_FUTURE = "future."  # blocks that read the stream of a decoder, and write into one that nothing goes on with
_IN_A_BLOCK = re.compile(r".*\bblocks\.\d+\.\w+")


def allocate(
    model: nn.Module,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    is_on_host: Callable[[Tensor], bool] | None = None,
) -> None:
    """Gives memory to the parameters that have none, as after `build_model`; a tied weight gets it once.

    They hold no values until they are initialized or loaded. What another process has stays without. Those for which
    `is_on_host` get memory of the host whatever the device is.
    """
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta and not is_absent(parameter):
                place = "cpu" if is_on_host and is_on_host(parameter) else device
                empty = _empty_like(parameter, place, dtype)
                setattr(module, name, made.setdefault(id(parameter), nn.Parameter(empty, parameter.requires_grad)))


def _empty_like(parameter: nn.Parameter, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Of the same shape. What is `torch.empty_like` of a tensor on `meta` imports sympy: half a second of a start."""
    if hasattr(parameter, "device_mesh"):  # this rank's piece
        return torch.empty_like(parameter, dtype=dtype, device=device)
    return torch.empty(parameter.shape, dtype=dtype, device=device)


@torch.no_grad()
def initialize(
    model: nn.Module,
    seed: int,
    copy: Callable[[Tensor, Tensor], object] = Tensor.copy_,
    growth: Growth = SAME,
) -> None:
    r"""Draws every parameter from the law that its module declares; one without memory gets it first.

    The W matrices that write into one residual stream (attention's output, cross-attention's output, the network's
    down) are divided by $\sqrt{W}$, so that its variance does not grow with depth (Radford et al., GPT-2, 2019), unless
    `model.residual` says otherwise.
    W is 2L in a decoder and in an encoder; in an encoder-decoder, 2L of the encoder and 3L of the decoder, apart.
    `copy` writes values, one tensor at a time, into a parameter of which this rank may have a piece only. A model that
    has grown begins as `model/transfer` says.
    """
    allocate(model)
    begin = beginnings(model, seed, growth)
    for name, parameter in model.named_parameters():
        if not is_absent(parameter):
            copy(parameter, begin[name]())


def beginnings(model: nn.Module, seed: int, growth: Growth = SAME) -> dict[str, Callable[[], Tensor]]:
    """What makes the first values of each parameter of a model, which needs no memory."""
    laws = laws_of(model)
    writers = {_writer(name) for name, law in laws.items() if _is_writer(law) and not name.startswith(_FUTURE)}
    num_writers = Counter(map(_stream, writers))
    found: dict[str, Callable[[], Tensor]] = {}
    for name, parameter in model.named_parameters():
        law, shape = laws[name], parameter.shape
        if isinstance(law.begins, Constant):
            found[name] = partial(torch.full, shape, law.begins.value, dtype=torch.float64)
            continue
        if isinstance(law.begins, Uniform):
            found[name] = partial(_spread, name, seed, shape, law.begins)
            continue
        deviation = _deviation(law, shape[-1], num_writers[_stream(name)]) * factors(name, law, growth).start
        found[name] = partial(_drawn, name, seed, shape, deviation)
    return found


def _drawn(name: str, seed: int, shape: torch.Size, deviation: float) -> Tensor:
    return torch.randn(shape, generator=_source(name, seed), dtype=torch.float32) * deviation


def _spread(name: str, seed: int, shape: torch.Size, law: Uniform) -> Tensor:
    drawn = torch.rand(shape, generator=_source(name, seed), dtype=torch.float32)
    return law.then(law.low + (law.high - law.low) * drawn)


def _source(name: str, seed: int) -> torch.Generator:
    return generator(seed, f"init {name.replace('.base.', '.')}")  # what is put around a layer changes nothing


def _stream(name: str) -> str:
    """The residual stream that a layer belongs to: that of the encoder, or the other."""
    return "" if name.startswith(_FUTURE) else name.partition("blocks.")[0]


def _is_writer(law: Law) -> bool:
    return law.writes == "residual" and isinstance(law.begins, FanIn) and law.begins.gain is None


def _writer(name: str) -> str:
    """The part of a block that writes; experts, and a network beside them, write one sum."""
    found = _IN_A_BLOCK.match(name)
    return found[0] if found else name


def _deviation(law: Law, fan_in: int, num_writers: int) -> float:
    begins = law.begins
    assert not isinstance(begins, Constant | Uniform)
    if isinstance(begins, FanIn):
        usual = fan_in**-0.5 / (num_writers**0.5 if _is_writer(law) else 1.0)
        return usual if begins.gain is None else begins.gain * fan_in**-0.5
    return begins.deviation
