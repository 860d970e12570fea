"""metrics.jsonl: a line for each step and each evaluation; on resume it is cut back to the checkpoint."""

import json
import os
from collections.abc import Iterator, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any, final

from thetahat.core.errors import ModelError, naming_full_disk
from thetahat.core.store import flush_folder
from thetahat.ledger.evaluated import Evaluated
from thetahat.run.log.lines import append_line, decoded

METRICS = "metrics.jsonl"
HELD_OUT = "held_out_"  # prefix of the names of an evaluation's numbers
VALUES = f"{HELD_OUT}bits_per_byte", f"{HELD_OUT}nats_per_label"  # of which an evaluation has one
MAX_DOCUMENTS = f"{HELD_OUT}max_documents"  # how many were scored, where these are not all
OF_DOCUMENTS = f"{HELD_OUT}of_documents"  # and how many there are
TIMES = frozenset({"seconds", "tokens_per_second", "wait_seconds"})  # all that differs where a step is made again
SOURCES = "sources"  # of a mixture: what was read of each, and the held-out value of each
logger = getLogger("thetahat")


@final
class MetricsLog:
    """An append-only file of JSON lines, cut to what belongs to the checkpoint of `step` when it is opened.

    It keeps the `num_bytes` that the checkpoint recorded, and the evaluation of its step if that was logged later.
    """

    def __init__(self, path: Path, num_bytes: int, step: int = 0) -> None:
        self.path = path
        with naming_full_disk(path), path.open("a+b") as file:
            if (size := file.tell()) < num_bytes:
                logger.warning("%s has lost %d bytes: steps before this one are missing", path, num_bytes - size)
                file.seek(0)
                num_bytes = file.read().rfind(b"\n") + 1
            file.seek(num_bytes)
            line = file.readline()
            file.truncate(num_bytes + (len(line) if _evaluated(line, step) is not None else 0))
        flush_folder(path.parent)

    def append(self, line: Mapping[str, Any]) -> None:
        """Adds a line, without waiting until it is on disk."""
        append_line(self.path, dict(line))

    def settle(self) -> int:
        """Flushes the file to disk, and returns its length in bytes."""
        with naming_full_disk(self.path), self.path.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size


def steps_after(path: Path, num_bytes: int) -> dict[int, dict[str, Any]]:
    """The lines of steps behind the first `num_bytes`: they were made, and no checkpoint has them."""
    if not path.exists():
        return {}
    found: dict[int, dict[str, Any]] = {}
    with path.open("rb") as file:
        file.seek(num_bytes)
        for read in filter(None, map(decoded, file)):
            if "log_likelihood_per_token" in read:
                found[int(read["step"])] = read
    return found


def evaluation_after(path: Path, step: int) -> Evaluated | None:
    """The evaluation after `step`; None if no whole line of the log has it."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        found = [one for line in file if (one := _evaluated(line, step)) is not None]
    return found[-1] if found else None


def _evaluated(line: bytes, step: int) -> Evaluated | None:
    if HELD_OUT.encode() not in line or not line.endswith(b"\n"):
        return None
    try:
        read = json.loads(line)
    except ValueError:
        return None
    value = next((read[name] for name in VALUES if name in read), None)
    if value is None or read.get("step") != step:
        return None
    return Evaluated(float(value), step, read.get(MAX_DOCUMENTS) or 0)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSON lines file of a run; none if there is no file."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise ModelError(f"{path}:{number} is damaged", cure=f"put {path.name} back from a copy") from error


def last_evaluation(path: Path) -> dict[str, Any]:
    """The line of the newest evaluation; empty if there was none."""
    return next((line for line in reversed(list(read_lines(path))) if any(name in line for name in VALUES)), {})


def read_last(path: Path, key: str) -> Any:
    """The newest value of a key in a metrics file, or None."""
    values = [line[key] for line in read_lines(path) if key in line]
    return values[-1] if values else None
