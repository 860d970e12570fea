"""This machine, as a config asks for it: its device, its threads, its determinism."""

import os
from typing import TypeVar

import torch
from msgspec.structs import replace

from thetahat.core.errors import ConfigError
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


def set_up(config: RunConfig | InferenceConfig) -> torch.device:
    """Sets threads and determinism for this process, and returns the device."""
    torch.set_num_threads(config.threads)
    if config.deterministic or torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(config.deterministic)  # imports the compiler, which takes more than a second
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    index = torch.cuda.current_device() if config.device == "cuda" else None
    return torch.device(config.device, index) if index is not None else torch.device(config.device)
