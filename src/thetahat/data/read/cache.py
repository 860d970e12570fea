"""Where derived data is kept: everything in it can be deleted and is built again."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def default_cache() -> Path:
    """`$THETAHAT_CACHE`, or `thetahat` in the user's cache folder."""
    if chosen := os.environ.get("THETAHAT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thetahat"


@contextmanager
def waiting_for(lock: Path) -> Generator[None]:
    """Lets one process at a time through; the kernel lets go when it ends, however it ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
