"""This machine, as a config asks for it: its device, its threads, its determinism."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from msgspec.structs import replace

from thetahat.core.errors import ConfigError
from thetahat.distribution.world import take_gpu
from thetahat.run.config import InferenceConfig, RunConfig

Machine = TypeVar("Machine", RunConfig, InferenceConfig)


def resolve(config: Machine) -> Machine:
    """The config with `auto` and 0 replaced by the device and the number of threads of this machine."""
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but torch sees no GPU here", allowed="cpu", cure="device=cpu")
    return replace(config, device=device, threads=config.threads or len(os.sched_getaffinity(0)))


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take: those free on a GPU; of the host its share of what the kernel gives.

    Within a container's limit; files that the kernel keeps in memory count as free. Processes of one run share alike.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = _numbers(Path("/proc/meminfo"))
    free = 1024 * known.get("MemAvailable:", sys.maxsize >> 10)
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no control group, or no limit
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used + _numbers(group / "memory.stat").get("inactive_file", 0))
    return max(free, 0) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _numbers(path: Path) -> dict[str, int]:
    """The number behind each name of a file of the kernel; none where there is no such file."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {name: int(number) for name, number, *_ in (line for line in lines if len(line) > 1)}


def set_up(config: RunConfig | InferenceConfig) -> torch.device:
    """Sets threads, determinism and the GPU of this process, and returns the device."""
    torch.set_num_threads(config.threads)
    if config.deterministic or torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(config.deterministic)  # imports the compiler, which takes more than a second
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.device != "cuda":
        return torch.device(config.device)
    take_gpu()
    return torch.device("cuda", torch.cuda.current_device())
