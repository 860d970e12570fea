"""Where derived data is kept: everything in it can be deleted and is built again."""

import atexit
import errno
import fcntl
import functools
import hashlib
import importlib.resources
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from logging import getLogger
from pathlib import Path
from typing import Any, TextIO

from thetahat.core import store
from thetahat.core.errors import DamagedError, FolderError, says_full

_CURE = "THETAHAT_CACHE=DIR in front of the command"
_DOES_WITHOUT = ContextVar("does_without", default=False)
logger = getLogger("thetahat")


def default_cache() -> Path:
    """`$THETAHAT_CACHE`, or `thetahat` in the user's cache folder."""
    if chosen := os.environ.get("THETAHAT_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thetahat"
    except RuntimeError as error:  # no HOME, and no entry of this user among the passwords
        raise FolderError("there is no home folder to keep a cache in", cure=_CURE) from error


def cache_folder(name: str) -> Path:
    """A folder of the cache, which is there and can be written; else a FolderError that names the setting.

    Where `doing_without` one, a temporary folder takes its place.
    """
    try:
        return _writable(default_cache, name)
    except FolderError as error:
        if not _DOES_WITHOUT.get():
            raise
        why = error.what
    return _writable(lambda: _stand_in(why), name)


@contextmanager
def doing_without() -> Generator[None]:
    """Within it no cache is needed: where none can be written, a temporary folder serves, and a line says so."""
    token = _DOES_WITHOUT.set(True)
    try:
        yield
    finally:
        _DOES_WITHOUT.reset(token)


def _stand_in(why: str) -> Path:
    is_new = not _temporary.cache_info().currsize
    folder = _temporary()
    if is_new:
        logger.warning("%s; a temporary folder takes its place, and nothing is kept (to keep it: %s)", why, _CURE)
    return folder


@functools.cache
def _temporary() -> Path:
    """A folder for this process, which is removed when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="thetahat-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _writable(cache: Callable[[], Path], name: str) -> Path:
    folder = cache() / name
    with _naming_setting(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return folder


def note_use(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Writes down what a folder of the cache was made from, and that it is used now."""
    about = folder.parent.parent / "about" / f"{folder.parent.name}-{folder.name}.json"
    try:
        os.utime(about)
    except FileNotFoundError:
        about.parent.mkdir(exist_ok=True)
        store.write_json(about, made_of)


def is_whole(folder: Path) -> bool:
    """Whether a folder of the cache is there with all its files in their sizes; what is left of another is removed.

    Bytes are not read: `store.verify` does that, for whoever asks.
    """
    if not folder.exists():
        return False
    try:
        store.verify(folder, deep=False)
    except DamagedError:
        store.remove(folder)
        return False
    return True


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
