"""The digests of files, known without reading those that did not change."""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from thetahat.core import store
from thetahat.core.errors import DataError
from thetahat.core.work.phases import phase

_TICK = (
    1_000_000_000  # ns; a file changed so shortly before it was read may be changed again within one tick of its time
)
Stamp = tuple[int, int, int]  # bytes, ns of the last change of its content, ns of the last change of anything about it


def stamp_of(path: Path) -> Stamp:
    """What says that a file is as it was: its size and its times."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def digests_of(files: Sequence[Path], cache: Path) -> list[str]:
    """The SHA-256 of each file; a file is read only if its size or its times are not those in the manifest.

    A manifest is kept for each list of files. Raises DataError where a file may not be read.
    """
    names = [str(path.absolute()) for path in files]
    manifest = cache / f"{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:32]}.json"
    known = _read(manifest)
    found: dict[str, list[int | str]] = {}
    digests: list[str] = []
    for name, path in zip(names, files, strict=True):
        now, stamp = time.time_ns(), stamp_of(path)
        size, changed, touched, digest = known.get(name) or (-1, 0, 0, "")
        if (size, changed, touched) != stamp:
            digest = _digest(path)
        if max(stamp[1:]) < now - _TICK:
            found[name] = [*stamp, digest]
        digests.append(str(digest))
    if found != known:
        cache.mkdir(parents=True, exist_ok=True)
        store.write_text(manifest, json.dumps(found))
    return digests


def _digest(path: Path) -> str:
    try:
        with phase(f"checking {path.name}", path.stat().st_size) as checking:
            return store.digest_file(path, checking.advance)
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: permission denied") from error


def _read(manifest: Path) -> dict[str, list[int | str]]:
    """What it says, or nothing: it can be made again."""
    try:
        known = json.loads(manifest.read_bytes())
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(known, dict) and all(isinstance(one, list) and len(one) == 4 for one in known.values())
    return known if is_whole else {}
