"""Which checkpoint a run goes on from: the newest that is whole. Ranks digest its tensors together, each some files."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thetahat.core import store
from thetahat.core.errors import DamagedError, ThetahatError
from thetahat.core.plain import fields_as_json
from thetahat.distribution.world import ALONE, World
from thetahat.run.config import RunConfig
from thetahat.run.folder.checkpoint import Kind, Rejected, find_fault, first_line
from thetahat.run.folder.files import AVERAGE, MODEL, OPTIMIZER, FilesOf, all_checkpoints


def newest_verified(run: Path, config: RunConfig, world: World = ALONE) -> tuple[Path | None, list[Rejected]]:
    """The newest checkpoint that is whole and of this config, and the newer ones that are not.

    All ranks call it. Each looks at every checkpoint, and digests some of the files of tensors: what one finds damaged
    is damaged for all, and where one cannot read, all raise. Ranks that do not see the same files, as on disks of their
    own, find each their own, as if alone. Raises ModelError for one that cannot be read, since it may be whole.
    """
    folders = all_checkpoints(run)
    if world.size > 1 and len({said["files"] for said in world.all_json({"files": _files_seen(folders)})}) > 1:
        return newest_verified(run, config)
    rejected: list[Rejected] = []
    for folder in reversed(folders):
        seen = _seen_by_all(folder, config, world)
        if len({one.kind for one in seen}) > 1:
            return newest_verified(run, config)
        first = seen[0]
        damage = next((one.damage for one in seen if one.damage), None)
        if first.kind == "damaged" or (first.kind and not damage):
            rejected.append(Rejected(folder, first.kind, first.reason))
        elif damage:
            rejected.append(Rejected(folder, "damaged", damage))
        else:
            return folder, rejected
    return None, rejected


def _files_seen(folders: Sequence[Path]) -> str:
    """A digest of which files of tensors these are: not of what is in them. Copies of a file are others."""
    said = [folder.name for folder in folders]
    for path in (path for folder in folders for path in sorted(folder.glob("*.safetensors"))):
        with suppress(OSError):
            state = path.stat()
            said.append(f"{path.name} {state.st_ino} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one rank finds wrong with a checkpoint."""

    kind: Kind | None = None  # whatever the digests of its tensors
    reason: str = ""
    damage: str = ""  # of a file of tensors that this rank has digested


def _seen_by_all(folder: Path, config: RunConfig, world: World) -> list[_Seen]:
    """What each rank says, on all of them; raises on all where one cannot read."""
    mine, error = _Seen(), None
    try:
        mine = _look(folder, config, world)
    except ThetahatError as raised:
        error = raised
    world.raise_together(error)
    found: list[dict[str, Any]] = world.all_json(fields_as_json(mine))
    return [_Seen(**one) for one in found]


def _look(folder: Path, config: RunConfig, world: World) -> _Seen:
    fault = find_fault(folder, config, shallow=_TENSORS)
    if fault and fault.kind == "damaged":
        return _Seen(fault.kind, fault.reason)
    damage = ""
    sizes = store.sizes(folder)
    mine = shared_out({name: size for name, size in sizes.items() if name in _TENSORS}, world.size)[world.rank]
    try:
        store.verify(folder, shallow=sizes.keys() - mine)
    except DamagedError as error:
        damage = first_line(error)
    return _Seen(fault.kind, fault.reason, damage) if fault else _Seen(damage=damage)


_TENSORS = FilesOf((MODEL, OPTIMIZER, AVERAGE))


def shared_out(sizes: Mapping[str, int], num_ranks: int) -> list[set[str]]:
    """The files that each rank reads: the largest first, each by the rank that has least to read."""
    shares = [set[str]() for _ in range(num_ranks)]
    reads = [0] * num_ranks
    for name, size in sorted(sizes.items(), key=lambda one: (-one[1], one[0])):
        rank = reads.index(min(reads))
        reads[rank] += size
        shares[rank].add(name)
    return shares
