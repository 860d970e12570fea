"""The run folder: its name, its config, and the environment in which the run was made."""

import importlib.metadata
import json
import os
import platform
import subprocess
from contextlib import suppress
from logging import getLogger
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from thetahat.core import store
from thetahat.core.config import differences as all_differences, to_plain, to_toml
from thetahat.core.errors import FolderError, ModelError
from thetahat.data.tokens.roles import ROLES
from thetahat.distribution.world import World, join_world
from thetahat.run.config import RunConfig, changed_keys, changes, differences, digest, is_fixed
from thetahat.run.folder.checkpoint import TOKENIZER
from thetahat.run.folder.checks import CHECKS
from thetahat.run.folder.config import read_config
from thetahat.run.folder.files import CONFIG, all_checkpoints
from thetahat.run.folder.starts import ENVIRONMENT, STARTS, note_start
from thetahat.run.log.metrics import METRICS, read_lines
from thetahat.run.log.samples import SAMPLES
from thetahat.run.machine import resolve

WATCH = "watch.jsonl"
logger = getLogger("thetahat")


def choose_folder(config: RunConfig, out: Path | None, *, fresh: bool) -> Path:
    """`out`, or runs/RECIPE-DIGEST; with `fresh` the first of NAME, NAME-2, NAME-3, ... that is not there."""
    folder = out or Path("runs") / f"{config.recipe}-{digest(config)}"
    return _first_free(folder, join_world(resolve(config).device)) if fresh else folder


def _first_free(folder: Path, world: World) -> Path:
    """The folder that the first rank finds, on every rank: to the others it would exist already."""

    def named(number: int) -> Path:
        return folder.with_name(f"{folder.name}-{number}") if number > 1 else folder

    number = 1
    while world.is_first and named(number).exists():
        number += 1
    return named(int(world.sum_of_all(torch.tensor(number if world.is_first else 0)).item()))


def enter(folder: Path, config: RunConfig) -> None:
    """Writes the config into a new folder; refuses a folder of another config, or one that is no run's."""
    _refuse_foreign(folder)
    store.remove_partial(folder)
    (folder / "checkpoints").mkdir(exist_ok=True)
    store.remove_partial(folder / "checkpoints")
    if has_begun(folder) and not (folder / CONFIG).exists():
        cure = f"copy it back: cp {folder}/checkpoints/step-*/{CONFIG} {folder}/ from any one of them"
        raise ModelError(f"{folder / CONFIG} is gone, and the run has begun", cure=cure)
    changed = differences(config, read_config(folder)) if (folder / CONFIG).exists() else []
    if changed and not has_begun(folder):
        leave_nothing(
            folder, also_folder=False
        )  # an earlier command failed before step 0, and was killed before it could clean up
    elif changed:
        raise _of_another_config(folder, config, read_config(folder))
    if not (folder / CONFIG).exists():
        store.write_json(folder / ENVIRONMENT, _surroundings(config))
        store.write_text(folder / CONFIG, to_toml(config))


def note_beginning(folder: Path, config: RunConfig, step: int, *, is_new: bool) -> None:
    """Records that the run begins or goes on after `step`, on which machine, and how it is watched from there on."""
    note_start(folder, step, None if is_new else _surroundings(config))
    note_watch(folder, config, step)


def note_watch(folder: Path, config: RunConfig, step: int) -> None:
    """Records how the run is watched from `step` on if that has changed, and logs the change.

    Steps after `step` are made again, so their records are removed.
    """
    noted = [line for line in read_lines(folder / WATCH) if line["step"] <= step]
    before, now = read_config(folder).watch, config.watch
    lines = [*noted] or [{"step": config.first_step, **to_plain(before)}]
    if changed := all_differences(now, before):
        logger.info("from step %d on: %s", step, "; ".join(changed))
    if lines[-1] != (line := {"step": lines[-1]["step"], **to_plain(now)}):
        lines.append(line | {"step": step})
    if lines != noted:
        store.write_text(folder / WATCH, "".join(f"{json.dumps(line)}\n" for line in lines))
    if changed:
        store.write_text(folder / CONFIG, to_toml(config))


def _refuse_foreign(folder: Path) -> None:
    """Refuses files with the names of a run's where there is no environment, which a run writes first."""
    if (folder / ENVIRONMENT).exists() or has_begun(folder):
        return
    for name in (CONFIG, TOKENIZER, ROLES):
        if (folder / name).exists():
            raise FolderError(
                f"{folder / name} is not of a run, and would be taken for one's",
                cure="--out another folder; to use them: thetahat train PATH of a config, data.tokenizer=PATH",
            )


def has_begun(folder: Path) -> bool:
    """Whether anything was trained or saved here."""
    log = folder / METRICS
    return bool(all_checkpoints(folder)) or (log.is_file() and log.stat().st_size > 0)


def leave_nothing(folder: Path, *, also_folder: bool = True) -> None:
    """Deletes the files of a run that has not begun, and its folder if nothing else is in it."""
    for name in (CONFIG, ENVIRONMENT, TOKENIZER, ROLES, METRICS, WATCH, STARTS, CHECKS, SAMPLES):
        (folder / name).unlink(missing_ok=True)
    if also_folder:
        (folder / ".lock").unlink(missing_ok=True)
        for empty in (folder / "checkpoints", folder):
            with suppress(OSError):  # other files are in it
                empty.rmdir()


def _of_another_config(folder: Path, config: RunConfig, theirs: RunConfig) -> FolderError:
    shown = "\n".join(f"    {line}" for line in differences(config, theirs))
    name = quote(str(folder))
    ways = [
        f"thetahat train {name} to go on with it as it is",
        f"base={name} --out DIR to train on from its model alone",
        "--fresh for a new folder beside it, --out DIR for another",
    ]
    if config.parent == theirs.parent and not any(map(is_fixed, changed_keys(config, theirs))):
        typed = " ".join(map(quote, changes(config, theirs)))
        ways.insert(0, f"thetahat train --branch {name} {typed} to go on so from its state, in a new folder")
    return FolderError(f"{folder} belongs to another config; it would change\n{shown}", cure=";\n    or ".join(ways))


def _surroundings(config: RunConfig) -> dict[str, Any]:
    """The environment, and how its ranks share the work, which may be another way when the run goes on."""
    return environment() | {"mesh": to_plain(config.mesh)}


def environment() -> dict[str, Any]:
    """Versions, hardware and commit. It is an allow-list, so that no secret of the environment is recorded."""
    packages = ("thetahat", "torch", "tokenizers", "safetensors", "numpy", "pyarrow", "msgspec")
    return {
        "packages": {name: version_of(name) for name in packages},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "git_commit": _git_commit(),
    }


def version_of(name: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
