"""GPUs by name, with their published peaks, and what of a peak a training reaches."""

from collections.abc import Mapping
from dataclasses import dataclass

from thetahat.core.errors import ConfigError
from thetahat.model.config import Dtype

GB, TB, TERA = 10**9, 10**12, 10**12


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as its maker describes it. Peaks are dense, without sparsity, and sums in float32."""

    name: str
    memory: int  # bytes
    peak: Mapping[Dtype, int | float]  # FLOP/s of matrix products
    bandwidth: int | float  # bytes/s of its memory
    watts: int | float  # of the board at its limit
    link: int | float  # bytes/s to the other GPUs of a node, one direction
    network: int | float  # bytes/s to other nodes, one direction, for each GPU
    per_node: int = 8


def _device(name: str, memory: int, peaks: tuple[int | float, ...], rest: tuple[int | float, ...]) -> Device:
    """Peaks are TFLOP/s in bfloat16, float32 and float64; the rest TB/s, watts, and GB/s of link and network."""
    kinds: tuple[Dtype, Dtype, Dtype] = ("bfloat16", "float32", "float64")
    peak: dict[Dtype, int | float] = {kind: value * TERA for kind, value in zip(kinds, peaks, strict=True)}
    bandwidth, watts, link, network = rest
    return Device(name, memory * GB, peak, bandwidth * TB, watts, link * GB, network * GB)


DEVICES: Mapping[str, Device] = {
    one.name: one
    for one in (
        _device("h100", 80, (989.4, 66.9, 66.9), (3.35, 700, 450, 50)),
        _device("h200", 141, (989.4, 66.9, 66.9), (4.8, 700, 450, 50)),
        _device("b200", 180, (2250.0, 75.0, 37.0), (7.7, 1000, 900, 50)),
        _device("a100", 80, (312.0, 19.5, 19.5), (2.039, 400, 300, 25)),
        _device("a100-40gb", 40, (312.0, 19.5, 19.5), (1.555, 400, 300, 25)),
        _device("mi300x", 192, (1307.4, 163.4, 163.4), (5.3, 750, 448, 50)),
        _device("l40s", 48, (362.1, 91.6, 1.4), (0.864, 350, 32, 25)),
        _device("l4", 24, (121.0, 30.3, 0.47), (0.3, 72, 32, 12.5)),
        _device("rtx4090", 24, (165.2, 82.6, 1.3), (1.008, 450, 32, 1.25)),
    )
}
"""From the makers' data sheets: SXM boards of H100, H200, B200 and A100, OAM of MI300X, PCIe for the rest. Links are
NVLink, Infinity Fabric or PCIe 4; networks are those of the usual node: 400 Gb/s a GPU, 200 for A100 and L40S, 100 for
L4, and 10 for a desktop.
"""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device reaches in training: operations and bytes in a second."""

    products: int | float  # FLOP/s of the matrices
    attention: int | float  # FLOP/s of what is visible
    bandwidth: int | float  # bytes/s


PRODUCTS = 0.65
"""Of the peak, in the products of a training: 654 to 721 of 989 TFLOP/s were measured on one H100, which
its power limits, at the shapes of models of 124M and 1B.
"""
ATTENTION = 0.35
"""Of the peak, counting visible pairs three times forward: 0.22 (heads of 64, 1,024 positions), 0.33 (64, 4,096) and
0.45 (128, 4,096) were measured with cuDNN's kernel on the same H100.
"""
BANDWIDTH = 0.9
"""Of the published bandwidth, in copies: 3.02 of 3.35 TB/s were measured there."""


def find_device(name: str) -> Device:
    """The GPU of this name; raises ConfigError, with those that there are, for another one."""
    known = name.lower().replace("_", "-").replace(" ", "-")
    if known not in DEVICES:
        raise ConfigError(f"no GPU is known by the name {name!r}", allowed=f"{', '.join(DEVICES)}, or here")
    return DEVICES[known]


def rates_of(device: Device, dtype: Dtype, utilisation: int | float | None = None) -> Rates:
    """What it reaches in a dtype; a `utilisation` is that of the peak in all products, in place of the usual ones."""
    peak = device.peak[dtype]
    return Rates(
        products=peak * (PRODUCTS if utilisation is None else utilisation),
        attention=peak * (ATTENTION if utilisation is None else utilisation),
        bandwidth=device.bandwidth * BANDWIDTH,
    )
