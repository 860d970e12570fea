"""Bytes on disk: written once, digested, flushed, published by rename, verified on load. No pickle anywhere.

A folder is either there with every byte that its manifest names, or it is not there. The rules are those of
crash-safe databases: write to a temporary name, flush every file and the folder, rename, flush the parent.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from thetahat.core.errors import FolderError, ModelError, naming_full_disk

MANIFEST = "MANIFEST.json"
_PARTIAL = ".partial"


def digest_file(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replaces a small file in one move: readers see the old text or the new one."""
    temporary = _partial(path)
    with naming_full_disk(path):
        try:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)


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
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=_PARTIAL), suppress(FileNotFoundError):
            os.lstat(_partial(path))  # a name that is too long
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        why = "a file stands where its folder would be" if is_file else error.strerror
        raise FolderError(f"{path} cannot be written: {why}", cure=f"another {option}") from error


@contextmanager
def publishing(target: Path) -> Generator[Path]:
    """A folder to write into, which appears as `target` with its manifest all at once, or not at all.

    One process at a time may publish `target`: do so while `holding` the folder above.
    """
    if target.exists():
        raise FolderError(f"{target} is already published, and what is published is never overwritten")
    partial = _partial(target)
    with naming_full_disk(target):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            _seal(partial)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        flush_folder(target.parent)


def _seal(folder: Path) -> None:
    """Makes every byte and name durable, and lists them."""
    below = sorted(folder.rglob("*"))
    for path in below:
        _flush(path)
    entries = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest_file(path)}
        for path in below
        if path.is_file()
    }
    write_text(folder / MANIFEST, _manifest(entries))


def _manifest(entries: Mapping[str, Any]) -> str:
    return _json({"files": entries, "sha256": hashlib.sha256(_json(entries).encode()).hexdigest()})


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def verify(folder: Path, *, deep: bool = True) -> None:
    """Raises ModelError unless the folder holds exactly what its manifest names, byte for byte.

    Without `deep` only names and sizes are compared, for caches that are too large to read twice.
    """
    try:
        _verify(folder, deep=deep)
    except OSError as error:  # a bad sector, or a folder that is being deleted
        raise ModelError(f"{folder} cannot be read: {error}") from error


def _verify(folder: Path, *, deep: bool) -> None:
    entries = _entries(folder)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    for name in sorted(present - set(entries)):
        raise ModelError(f"{folder / name} is not in the manifest")
    for name, entry in entries.items():
        path = folder / name
        if name not in present:
            raise ModelError(f"{path} is missing")
        if path.stat().st_size != entry["bytes"]:
            raise ModelError(f"{path} has {path.stat().st_size} bytes where {entry['bytes']} were written")
        if deep and digest_file(path) != entry["sha256"]:
            raise ModelError(f"{path} is damaged: its digest is not the one written")


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    """What the manifest names, if it is to the byte the manifest that names it."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes().decode()
        entries = json.loads(text)["files"]
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing, so {folder} was never published") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    if not _are_entries(entries) or text != _manifest(entries):
        raise ModelError(f"{path} is damaged: it does not match its own digest")
    return entries


def _are_entries(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entry, dict) and set(entry) == {"bytes", "sha256"} for entry in value.values()
    )


def remove_partial(folder: Path) -> None:
    """Deletes what a killed process left half-written in a folder."""
    for path in folder.glob(f".*{_PARTIAL}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove(folder: Path) -> None:
    """Deletes a published folder: it disappears first, then its files go."""
    condemned = _partial(folder)
    shutil.rmtree(condemned, ignore_errors=True)
    folder.rename(condemned)
    shutil.rmtree(condemned)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}{_PARTIAL}")


@contextmanager
def holding(folder: Path) -> Generator[None]:
    """Keeps every other process out of a folder; the kernel lets go when this process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
