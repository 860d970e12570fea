"""What is kept of data, so that it is not made again: listed, checked and removed."""

import fcntl
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from thetahat.core import store
from thetahat.core.errors import DamagedError
from thetahat.data.read.cache import default_cache

INPUT = "standard-input"  # what cannot be made again
_KINDS = {
    "records": "text",
    "corpora": "token ids",
    "plans": "order of steps",
    "objects": "remote object",
    "files": "digests of files",
    "bad-records": "unusable records",
    INPUT: "standard input",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder or a file of the cache."""

    kind: str  # records, corpora, files, ...
    name: str
    path: str
    made_of: str  # what it was made from, where that is written down
    num_bytes: int
    last_use: float  # seconds since 1970
    is_partial: bool = False  # whether a preparation was broken off here: the same command goes on with it

    @property
    def days(self) -> float:
        """Days since it was used last."""
        return (time.time() - self.last_use) / 86_400


def entries() -> list[Entry]:
    """All that is in the cache, what was used last first."""
    cache = default_cache()
    kinds = sorted(path for path in cache.iterdir() if path.is_dir() and path.name != "about") if cache.is_dir() else []
    found = [_entry(cache, kind.name, path) for kind in kinds for path in sorted(kind.iterdir()) if _is_shown(path)]
    return sorted(found, key=lambda entry: -entry.last_use)


def damage(some: Iterable[Entry]) -> Iterator[tuple[Entry, str]]:
    """What is not as it was written, byte for byte, and why."""
    for entry in some:
        path = Path(entry.path)
        for folder in [path, *(below for below in path.rglob("*") if below.is_dir())] if path.is_dir() else []:
            if (folder / store.MANIFEST).is_file():
                try:
                    store.verify(folder)
                except DamagedError as error:
                    yield entry, str(error)


def clean(
    older_than: float = 0.0, down_to: int | None = None, *, with_input: bool = False
) -> tuple[list[Entry], list[Entry]]:
    """Removes what was not used for `older_than` days, until `down_to` bytes are left; None: all of that.

    What is in use, and what came from standard input, stays. Gives what was removed and what is in use.
    """
    cache, removed, busy = default_cache(), list[Entry](), list[Entry]()
    found = entries()
    left = sum(entry.num_bytes for entry in found)
    for entry in reversed(found):
        if (down_to is not None and left <= down_to) or entry.days < older_than:
            continue
        if entry.kind == INPUT and not with_input:
            continue
        if _remove(cache, entry):
            removed.append(entry)
            left -= entry.num_bytes
        else:
            busy.append(entry)
    return removed, busy


def kind_of(entry: Entry) -> str:
    """Its kind in words."""
    return _KINDS.get(entry.kind, entry.kind)


def _is_shown(path: Path) -> bool:
    return not path.name.startswith(".")


def _entry(cache: Path, kind: str, path: Path) -> Entry:
    name = path.name.removesuffix(".shards")
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    about = cache / "about" / f"{kind}-{name}.json"
    made_of, times = "", [path.stat().st_mtime]
    if about.is_file():
        made_of = str(json.loads(about.read_bytes()).get("of", ""))
        times.append(about.stat().st_mtime)
    num_bytes = sum(file.stat().st_size for file in files if file.is_file())
    return Entry(kind, path.name, str(path), made_of, num_bytes, max(times), path.name.endswith(".shards"))


def _remove(cache: Path, entry: Entry) -> bool:
    """Removes an entry, unless a process makes or waits for it; what is open already stays readable."""
    path, name = Path(entry.path), entry.name.removesuffix(".shards")
    lock = path.with_name(f".{name}.lock")
    with lock.open("a", encoding="utf-8") if path.is_dir() else open("/dev/null", "a", encoding="utf-8") as file:
        if path.is_dir():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        (cache / "about" / f"{entry.kind}-{name}.json").unlink(missing_ok=True)
    return True
