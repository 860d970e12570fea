"""Starts several ranks on this machine, for `verify` and for tests."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch import multiprocessing


def launch(function: Callable[..., None], num_ranks: int, *arguments: Any) -> None:
    """Runs `function(*arguments)` in `num_ranks` new processes with the environment that `torchrun` would set.

    `function` must be importable. Raises if any rank fails.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = (num_ranks, port, torch.get_num_threads(), function, arguments)
    multiprocessing.spawn(_enter, args=settings, nprocs=num_ranks, join=True)  # pyright: ignore[reportPrivateImportUsage]


def _enter(
    rank: int, size: int, port: int, num_threads: int, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(num_threads)
    function(*arguments)
