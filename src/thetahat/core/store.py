"""Bytes on disk: written once, digested, flushed, published by rename, verified on load. No pickle anywhere.

A folder is either there with every byte that its manifest names, or it is not there. The rules are those of
crash-safe databases: write to a temporary name, flush every file and the folder, rename, flush the parent. What is
rejected is set aside under another name and never deleted, and so is what others put into a folder.
"""

import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Container, Generator, Mapping
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast
from zlib import crc32

from thetahat.core.errors import DamagedError, FolderError, ModelError, naming_full_disk

logger = getLogger("thetahat")
MANIFEST = "MANIFEST.json"
Entry = dict[str, Any]  # of a file in a manifest: its bytes and their SHA-256
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_BLOCK = 1 << 20  # bytes read at once
_PARTIAL = ".thetahat-partial"  # no name that a user gives: what bears it is ours and may be deleted


def digest_file(path: Path, told: Callable[[int], None] = lambda number: None) -> str:
    """The SHA-256 of a file's bytes; `told` is called with the number of those that are read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            told(len(block))
    return digest.hexdigest()


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Generator[BinaryIO]:
    """A file to write into, which replaces `path` in one move at the end: readers see the old bytes or the new ones.

    Until then its name is `temporary`, by default that of `path` with `partial_name`.
    """
    temporary = temporary or partial_name(path)
    with naming_full_disk(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces a small file in one move; several processes may do so at once, as in a cache."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """The same for what is no text."""
    own = path.with_name(f"{crc32(path.name.encode()):08x}-{os.getpid()}")
    with replacing(path, partial_name(own)) as file:
        file.write(data)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replaces a small JSON file in one move."""
    write_text(path, _json(value))


def flush_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_target(path: Path, option: str = "--out") -> None:
    """Raises FolderError unless a file or folder can be written there later, before hours of work for it begin.

    Nothing is ever written over, so nothing may be there, and `option`, which named it, should name another.
    """
    if not path.name or os.path.lexists(path):
        raise FolderError(f"{path} exists, and nothing is written over", cure=f"another {option}, or remove it first")
    try:
        make_folder(path.parent)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=_PARTIAL), suppress(FileNotFoundError):
            os.lstat(partial_name(path))  # a name that is too long
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        why = "a file stands where its folder would be" if is_file else error.strerror
        raise FolderError(f"{path} cannot be written: {why}", cure=f"another {option}") from error


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, and says so: its name may be a slip."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        logger.info("made the folder %s", folder)


@contextmanager
def publishing(
    target: Path, partial: Path | None = None, settled: Mapping[str, Entry] | None = None
) -> Generator[Path]:
    """A folder to write into, which appears as `target` with its manifest all at once, or not at all.

    One process at a time may publish `target`: do so while `holding` the folder above. Until then its name is
    `partial`, by default that of `target` with `partial_name`. Of files in `settled` by the end, which may be other
    processes', the entries are taken as they are.
    """
    if target.exists():
        raise FolderError(f"{target} is already published, and what is published is never overwritten")
    partial = partial or partial_name(target)
    with naming_full_disk(target):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            _seal(partial, settled or {})
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        flush_folder(target.parent)


def _seal(folder: Path, settled: Mapping[str, Entry]) -> None:
    """Makes every byte and name durable that is not `settled`, and lists all."""
    below = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    if lost := sorted(settled.keys() - below.keys()):
        raise FolderError(f"{folder / lost[0]} was written, and is not seen here", cure="one file system for all ranks")
    for name in below.keys() - settled.keys():
        _flush(below[name])
    entries = {name: settled.get(name) or _entry(path) for name, path in below.items() if path.is_file()}
    write_text(folder / MANIFEST, _manifest(entries))


def settle(path: Path) -> Entry:
    """Makes the bytes of a file durable; what a manifest says of it."""
    _flush(path)
    return _entry(path)


def _entry(path: Path) -> Entry:
    return {"bytes": path.stat().st_size, "sha256": digest_file(path)}


def _manifest(entries: Mapping[str, Any]) -> str:
    return _json({"files": entries, "sha256": hashlib.sha256(_json(entries).encode()).hexdigest()})


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def verify(folder: Path, *, deep: bool = True, shallow: Container[str] = ()) -> None:
    """Raises DamagedError unless every file that the manifest names is there, byte for byte.

    Other files are somebody else's and no damage. Nor is what cannot be read just now (a permission, a hiccup of the
    disk): that is a ModelError. Of the files named `shallow`, and without `deep` of all, only the sizes are compared.
    """
    with reading(folder):
        for name, entry in _entries(folder).items():
            _verify(folder / name, entry, deep=deep and name not in shallow)


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Turns an error of the operating system into a ModelError that says what to do; it proves no damage."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error}",
            cure="the same command again, after a look at the disk and at who may read there (ls -l)",
        ) from error


def _verify(path: Path, entry: Mapping[str, Any], *, deep: bool) -> None:
    size = _size(path)
    if size is None:
        raise DamagedError(f"{path} is missing")
    if size != entry["bytes"]:
        raise DamagedError(f"{path} has {size} bytes where {entry['bytes']} were written")
    if deep and digest_file(path) != entry["sha256"]:
        raise DamagedError(f"{path} is damaged: its digest is not the one written")


def _size(path: Path) -> int | None:
    """The bytes of a file, None where there is none of this name; other errors are raised."""
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _entries(folder: Path) -> dict[str, Entry]:
    """What the manifest names, if it is to the byte the manifest that names it."""
    path = folder / MANIFEST
    if _size(path) is None:
        raise DamagedError(f"{path} is missing, so {folder} was never published")
    try:
        text = path.read_bytes().decode()
        entries = json.loads(text)["files"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    if not _are_entries(entries) or text != _manifest(entries):
        raise DamagedError(f"{path} is damaged: it does not match its own digest")
    return entries


def _are_entries(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entry, dict) and set(cast(Entry, entry)) == {"bytes", "sha256"} and _is_below(name)
        for name, entry in cast("dict[str, Any]", value).items()
    )


def _is_below(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")


def digest_in(folder: Path, name: str) -> str:
    """The SHA-256 of a published file, as its manifest says it."""
    with reading(folder):
        return _entries(folder)[name]["sha256"]


def sizes(folder: Path) -> dict[str, int]:
    """The bytes of each published file, as the manifest has them."""
    with reading(folder):
        return {name: entry["bytes"] for name, entry in _entries(folder).items()}


def names(folder: Path) -> list[str]:
    """Of the files that were published in a folder; what others put there is not among them."""
    with reading(folder):
        return list(_entries(folder))


def remove_partial(folder: Path) -> None:
    """Deletes what a killed process left half-written in a folder."""
    for path in folder.glob(f".*{_PARTIAL}"):
        _delete(path)


def remove(folder: Path) -> None:
    """Deletes a published folder: it disappears first, then its files go. What others put there is moved beside it."""
    _move_others(folder)
    condemned = partial_name(folder)
    _delete(condemned)
    folder.rename(condemned)
    _delete(condemned)


def set_aside(path: Path, suffix: str, reason: str) -> Path:
    """Gives what was rejected another name, PATH.SUFFIX, and says why in a text beside it; nothing in it changes."""
    target = _free(path.with_name(f"{path.name}.{suffix}"))
    write_text(target.with_name(f"{target.name}.txt"), f"{path.name}: {reason}\n")
    path.rename(target)
    flush_folder(path.parent)
    return target


def _move_others(folder: Path) -> None:
    """Moves what the manifest of a folder does not name to FOLDER.other-files; of one without a manifest, nothing."""
    try:
        ours = {MANIFEST, *_entries(folder)}
    except DamagedError:
        return
    if others := [path for path in _files_below(folder) if path.relative_to(folder).as_posix() not in ours]:
        target = _free(folder.with_name(f"{folder.name}.other-files"))
        for path in others:
            moved = target / path.relative_to(folder)
            moved.parent.mkdir(parents=True, exist_ok=True)
            path.rename(moved)
        logger.warning("%s: what is not of it is kept in %s", folder, target)


def _files_below(folder: Path) -> list[Path]:
    """Everything but folders; what cannot be listed is an error, not an absence."""
    found: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            found += _files_below(Path(entry)) if entry.is_dir(follow_symlinks=False) else [Path(entry)]
    return found


def _free(path: Path) -> Path:
    """The first of PATH, PATH-2, PATH-3, ... that is not there."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not os.path.lexists(each))


def _delete(path: Path) -> None:
    """Deletes what has disappeared already, as far as that works; the next start tries again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    if os.path.lexists(path):
        logger.warning("%s could not be deleted: somebody may be reading it still", path)


def partial_name(path: Path) -> Path:
    """Where a file or folder is written before it appears under its name; `remove_partial` finds it there."""
    return path.with_name(f".{path.name}{_PARTIAL}")


@contextmanager
def alone(target: Path) -> Generator[None]:
    """Keeps other processes from publishing the same folder."""
    lock = target.with_name(f".{target.name}.writing")
    with holding(lock):
        try:
            yield
        finally:
            shutil.rmtree(lock)


def is_held(folder: Path) -> bool:
    """Whether a process is `holding` the folder just now."""
    try:
        with (folder / ".lock").open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def holding(folder: Path) -> Generator[None]:
    """Keeps every other process out of a folder; the kernel lets go when this process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            _lock(file)
        except BlockingIOError as error:
            file.seek(0)
            raise FolderError(
                f"{folder} is held by another process (pid {file.read().strip() or 'unknown'})",
                cure="wait for it, stop it, or write elsewhere with --out DIR",
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def _lock(file: TextIO) -> None:
    """Takes the lock, at the second attempt where another process only looked whether it is held."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.05)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
