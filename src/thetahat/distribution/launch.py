"""Starts several ranks on this machine, for `verify` and for tests."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.spawn import start_processes

IMPORTED = "torch._dynamo"  # by whoever cuts a tensor


def launch(function: Callable[..., None], num_ranks: int, *arguments: Any) -> None:
    """Runs `function(*arguments)` in `num_ranks` new processes with the environment that `torchrun` would set.

    `function` must be importable. Raises if any rank fails. The ranks are forked from one process that has imported
    torch and run no operation of it: to import it takes each of them seconds.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    settings = (dict(os.environ) | world, torch.get_num_threads(), function, arguments)
    multiprocessing.set_forkserver_preload([IMPORTED, function.__module__])
    start_processes(_enter, args=settings, nprocs=num_ranks, join=True, start_method="forkserver")


def _enter(
    rank: int, environment: dict[str, str], num_threads: int, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.clear()  # that process has the environment of the time at which it was started
    os.environ |= environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(num_threads)
    function(*arguments)
