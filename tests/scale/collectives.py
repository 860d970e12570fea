"""The work of a rank: a whole run, and a note of each collective that it takes part in, and of what it hands on."""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thetahat.core.config import from_toml
from thetahat.run.config import RunConfig
from thetahat.run.train import train

HANDED = {torch.ops.c10d.send.default: "sent to", torch.ops.c10d.recv_.default: "received from"}


class Noting(TorchDispatchMode):
    """Notes every collective that torch dispatches, those of FSDP and DTensor among them."""

    def __init__(self):
        super().__init__()
        self.seen = []  # what, the ranks of its group, shapes and dtypes
        self.handed = []  # sent or received, the other rank, the group, shapes and dtypes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ("c10d", "_c10d_functional") and "wait" not in func.__name__:
            given = args[1:] if func is torch.ops.c10d.gather_.default else args  # what it gathers into is the root's
            leaves = tree_leaves((given, kwargs))
            tensors = [[*one.shape, str(one.dtype)] for one in leaves if isinstance(one, torch.Tensor)]
            if func in HANDED:
                group = ranks_of(leaves)
                self.handed.append([HANDED[func], group[args[2]], group, tensors])
            else:
                self.seen.append([f"{func.namespace}.{func.__name__}", ranks_of(leaves), tensors])
        return func(*args, **(kwargs or {}))


def ranks_of(leaves):
    """Those of the group: an operation has it as an object or by name."""
    for one in leaves:
        if isinstance(one, torch.ScriptObject) and "ProcessGroup" in str(one._type()):
            return dist.get_process_group_ranks(dist.ProcessGroup.unbox(one))
    names = [one for one in leaves if isinstance(one, str)]
    groups = dist.distributed_c10d._world.pg_names
    return next(dist.get_process_group_ranks(group) for group, name in groups.items() if name in names)


def noted(name: str) -> None:
    """Trains a run, and writes what this rank has noted."""
    folder = Path(name)
    os.chdir(folder)
    with Noting() as noting:
        reports = list(train(from_toml((folder / "config.toml").read_text(), RunConfig), folder / "run"))
    told = {"seen": noting.seen, "handed": noting.handed, "steps": len(reports)}
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(told))
