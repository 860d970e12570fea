"""The process group, in a part of the store that no earlier start has used."""

import json
import secrets
import time

import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from thetahat.core.errors import LostRankError

PATIENCE, PAUSE = 1800.0, 0.02  # seconds: for all ranks to start, and between two looks


def join_group(backend: str) -> None:
    """Makes the process group that the environment describes, with a store in which no earlier start has left anything.

    torchrun without --rdzv-backend keeps one store over all restarts, and torch reads the addresses of ranks that are
    gone there.
    """
    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(backend, store=PrefixStore(_start(store, rank, size), store), rank=rank, world_size=size)


def _start(store: Store, rank: int, size: int) -> str:
    """A name of this start that all of its ranks have, and no earlier one.

    Each rank draws a number. Rank 0 shows what it sees of all until all have seen theirs there; its own is the name.
    """
    mine, deadline = secrets.token_hex(8), time.monotonic() + PATIENCE
    store.set(f"thetahat/drawn/{rank}", mine)
    while time.monotonic() < deadline:
        if rank == 0:
            store.set("thetahat/shown", json.dumps([mine, *(_read(store, f"drawn/{one}") for one in range(1, size))]))
            if all(_read(store, f"seen/{one}") == mine for one in range(1, size)):
                return mine
        elif (shown := _read(store, "shown")) and json.loads(shown)[rank] == mine:
            store.set(f"thetahat/seen/{rank}", json.loads(shown)[0])
            return json.loads(shown)[0]
        time.sleep(PAUSE)
    raise LostRankError(f"rank {rank} has waited {PATIENCE:.0f} s for {size} ranks to start")


def _read(store: Store, name: str) -> str:
    """A key of the store; empty where nobody has written it."""
    key = f"thetahat/{name}"
    return bytes(store.get(key)).decode() if store.check([key]) else ""
