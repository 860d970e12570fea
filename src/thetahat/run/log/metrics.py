"""metrics.jsonl: one line a report, cut back to the checkpoint's offset on resume, so each step stands there once."""

import json
import os
from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from typing import Any, final

from thetahat.core.errors import ModelError, naming_full_disk
from thetahat.core.store import flush_folder

METRICS = "metrics.jsonl"
logger = getLogger("thetahat")


@final
class MetricsLog:
    """An append-only file of JSON lines, cut to the `num_bytes` that the checkpoint knows."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        self.path = path
        with naming_full_disk(path), path.open("a+b") as file:
            if (size := file.tell()) < num_bytes:
                logger.warning("%s has lost %d bytes: steps before this one are missing", path, num_bytes - size)
                file.seek(0)
                num_bytes = file.read().rfind(b"\n") + 1
            file.truncate(num_bytes)
        flush_folder(path.parent)

    def append(self, line: Mapping[str, Any]) -> None:
        """Adds a line and hands it to the operating system."""
        with naming_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def settle(self) -> int:
        """Makes what was written durable, and returns its length in bytes."""
        with naming_full_disk(self.path), self.path.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size


def read_last(path: Path, key: str) -> Any:
    """The newest value of a key in a metrics file, or None."""
    if not path.exists():
        return None
    values: list[Any] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            read = json.loads(line)
        except ValueError as error:
            raise ModelError(f"{path}:{number} is damaged", cure=f"put {path.name} back from a copy") from error
        if key in read:
            values.append(read[key])
    return values[-1] if values else None
