"""Where a dataset lies: a path, a folder, a glob, standard input or a text that comes with the package."""

import functools
import glob
import hashlib
import importlib.resources
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from thetahat.core.errors import DataError, naming_full_disk
from thetahat.core.store import flush_folder
from thetahat.data.read.cache import default_cache

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
_ALLOWED = f"files that end in {', '.join(SUFFIXES)}; a folder or a glob of these; - for standard input"
_CHUNK = 1 << 20
ORDER_MARK = b"\xef\xbb\xbf"  # at the start of lines of JSON it says UTF-8, and is no part of them


def find_files(spec: str) -> list[Path]:
    """The files that `spec` names, in an order that depends on their names alone."""
    if spec == "-":
        return [keep_standard_input()]
    if spec.startswith("bundled:"):
        return [_bundled(spec.removeprefix("bundled:"))]
    path = Path(spec).expanduser()
    if path.is_dir():
        return _readable(path.rglob("*"), f"no file to read in the folder {spec}")
    if path.exists():
        return _readable([path], f"{spec} is not a kind of file that is read here")
    if glob.has_magic(spec):
        matches = glob.iglob(str(path), recursive=True)
        return _readable(map(Path, matches), f"no file matches {spec}")
    raise DataError(f"no such file or folder: {spec}", allowed=_ALLOWED)


def label_files(files: list[Path]) -> list[str]:
    """A short, different name for each file: its own, or where two share one, its path below their common folder."""
    names = [file.name for file in files]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([file.parent for file in files])
    return [Path(os.path.relpath(file, common)).as_posix() for file in files]


@functools.cache
def keep_standard_input() -> Path:
    """A file with everything that came on standard input: a stream can be read once, a run may start twice."""
    folder = default_cache() / "standard-input"
    partial = folder / f".{os.getpid()}.partial"
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
    is_lines = start.removeprefix(ORDER_MARK).lstrip().startswith(b"{")
    return f"{digest.hexdigest()[:16]}{'.jsonl' if is_lines else '.txt'}"


def _readable(paths: Iterable[Path], otherwise: str) -> list[Path]:
    files = sorted({path for path in paths if path.name.endswith(SUFFIXES) and path.is_file()}, key=Path.as_posix)
    if not files:
        raise DataError(otherwise, allowed=_ALLOWED)
    for file in files:
        _check_name(file)
    return files


def _check_name(file: Path) -> None:
    """Names become sources and ids, which are text."""
    try:
        str(file).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(file).decode(errors="backslashreplace")
        raise DataError(f"the name of {shown} is not UTF-8", cure="rename it, for example with convmv") from error


def _bundled(name: str) -> Path:
    folder = Path(str(importlib.resources.files("thetahat.data"))) / "bundled"
    path = folder / f"{name}.txt"
    if not path.is_file():
        names = ", ".join(f"bundled:{file.stem}" for file in sorted(folder.glob("*.txt")))
        raise DataError(f"no text called {name!r} comes with the package", allowed=names)
    return path
