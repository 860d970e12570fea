"""starts.jsonl: a line for each time that a run began or went on, and on which machine."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from thetahat.core import store
from thetahat.core.errors import naming_full_disk

ENVIRONMENT, STARTS = "environment.json", "starts.jsonl"


@dataclass(frozen=True, slots=True)
class Start:
    """A start of a run."""

    step: int  # after which it went on
    at: str  # the time, UTC
    changed: dict[str, Any]  # what of the environment was not as environment.json has it


def note_start(folder: Path, step: int, environment: Mapping[str, Any] | None) -> None:
    """Adds a start after `step`, with what differs in the `environment`; None: the run begins, and nothing does.

    A line that a crash has torn stays, and ends.
    """
    began = flat(_began(folder)) if environment is not None else {}
    now = flat(environment) if environment is not None else {}
    changed = {name: value for name, value in now.items() if value != began.get(name, value)}
    line = {"step": step, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "changed": changed}
    path = folder / STARTS
    with naming_full_disk(path), path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read() != b"\n":
                file.write(b"\n")
        file.write(f"{json.dumps(line)}\n".encode())
    store.flush_folder(folder)


def read_starts(folder: Path) -> list[Start]:
    """The starts of a run, in their order; lines that are torn are left out. Runs of older versions have none."""
    path, found = folder / STARTS, list[Start]()
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            found.append(msgspec.json.decode(line, type=Start))
        except (msgspec.MsgspecError, ValueError):
            continue
    return found


def is_environment_of_before(folder: Path) -> bool:
    """Whether the last start found the environment of the one before it, as far as both are known."""
    last = read_starts(folder)[-2:]
    return len(last) == 2 and last[0].changed == last[1].changed


def _began(folder: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode((folder / ENVIRONMENT).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, ValueError):
        return {}


def flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A table of tables as one, whose names are joined by dots."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            below: Mapping[str, Any] = value
            found |= flat(below, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found
