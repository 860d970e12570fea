"""Where derived data is kept: everything in it can be deleted and is built again."""

import errno
import fcntl
import functools
import hashlib
import importlib.resources
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from thetahat.core.errors import FolderError, says_full

_CURE = "THETAHAT_CACHE=DIR in front of the command"


def default_cache() -> Path:
    """`$THETAHAT_CACHE`, or `thetahat` in the user's cache folder."""
    if chosen := os.environ.get("THETAHAT_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thetahat"
    except RuntimeError as error:  # no HOME, and no entry of this user among the passwords
        raise FolderError("there is no home folder to keep a cache in", cure=_CURE) from error


def cache_folder(name: str) -> Path:
    """A folder of the cache, which is there and can be written; else a FolderError that names the setting."""
    folder = default_cache() / name
    with _naming_setting(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return folder


@functools.cache
def code_digest() -> str:
    """Of the code that derives data from data, so that what other code has made is not taken for its work."""
    digest = hashlib.sha256()
    for path in sorted(Path(str(importlib.resources.files("thetahat.data"))).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@contextmanager
def waiting_for(lock: Path) -> Generator[None]:
    """Lets one process at a time through; the kernel lets go when it ends, however it ends."""
    with _opened(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _opened(lock: Path) -> TextIO:
    with _naming_setting(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        return lock.open("a", encoding="utf-8")


@contextmanager
def _naming_setting(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if says_full(error):
            raise
        raise FolderError(f"the cache {folder} cannot be written: {error.strerror}", cure=_CURE) from error
