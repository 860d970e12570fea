"""Standard input as a file: a stream can be read once, a run may start twice."""

import functools
import hashlib
import os
import re
import sys
from pathlib import Path
from typing import BinaryIO

from thetahat.core.errors import naming_full_disk
from thetahat.core.store import flush_folder, partial_name
from thetahat.data.read.cache import cache_folder
from thetahat.data.read.opening import ORDER_MARK, opening

_CHUNK = 1 << 20
_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
_TABLE_MAGIC = {b"PAR1": ".parquet", b"ARROW1": ".arrow", b"\xff\xff\xff\xff": ".arrow"}


@functools.cache
def keep_standard_input() -> Path:
    """A file with everything that came on standard input: a stream can be read once, a run may start twice."""
    folder = cache_folder("standard-input")
    partial = partial_name(folder / str(os.getpid()))
    try:
        with naming_full_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            name = _copy(sys.stdin.buffer, partial)
            partial.replace(folder / name)
            flush_folder(folder)
    finally:
        partial.unlink(missing_ok=True)
    return folder / name


def _copy(stream: BinaryIO, path: Path) -> str:
    """Writes a stream to a file, and gives the name that suits its content."""
    digest, start = hashlib.sha256(), b""
    with path.open("wb") as file:
        while chunk := stream.read(_CHUNK):
            start = start or chunk
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if start.startswith(tuple(_TABLE_MAGIC)):
        kind = next(kind for magic, kind in _TABLE_MAGIC.items() if start.startswith(magic))
        return f"{digest.hexdigest()[:16]}{kind}"
    compression = next((ending for magic, ending in _MAGIC.items() if start.startswith(magic)), "")
    if compression:
        with opening(path, compression) as file:
            start = file.read(_CHUNK)
    return f"{digest.hexdigest()[:16]}{_kind_of_content(start)}{compression}"


def _kind_of_content(start: bytes) -> str:
    text = start.removeprefix(ORDER_MARK).lstrip()
    if text.startswith(b"{"):
        return ".jsonl"
    return ".json" if re.match(rb"\[\s*\{", text) else ".txt"
