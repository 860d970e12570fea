"""Copies of objects in the cache: read in parts, and again only where the store says that they have changed."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from thetahat.core import store
from thetahat.core.errors import DataError, naming_full_disk
from thetahat.core.work.phases import phase
from thetahat.data.read.cache import cache_folder, waiting_for
from thetahat.data.read.remote.place import Object, Store
from thetahat.data.read.table.delimited import DELIMITED
from thetahat.data.read.table.rows import TABLES
from thetahat.data.read.table.splits import splits_by_name

_PART = 1 << 23  # bytes that are asked for at a time
_AT_ONCE = 8  # objects
_MANIFEST = ".manifest"
Told = Callable[[int], None]  # how many bytes more have arrived
logger = getLogger("thetahat")


@dataclass(slots=True)
class Copies:
    """The copies of what a URL names, and the names of what is left out, with the reason."""

    files: list[Path] = field(default_factory=list[Path])
    skipped: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])


def copies_of(spec: str, kind_of: Callable[[Path], str], kinds: Sequence[str]) -> Copies:
    """Copies in the cache of the objects that a URL, a folder or a glob names, as far as they are of these kinds.

    They are kept under objects/SCHEME/ by their names; a manifest beside them has the ETag, the size and the time that
    the store said. What it still says is not read again. Raises DataError where an object is missing, access is
    refused, a package is missing or the connection is lost; what has arrived by then is kept.
    """
    place = Store(spec)
    found, copies, chosen = place.found(spec), Copies(), list[Object]()
    is_named = len(found) == 1 and found[0].url.rstrip("/") == spec
    for one in found:
        path = Path(one.name)
        if one.name.startswith(".") and not is_named:
            copies.skipped.setdefault("hidden", []).append(path)
        elif is_named or kind_of(Path(one.name)) in kinds:
            chosen.append(one)
        else:
            copies.skipped.setdefault("of another kind", []).append(path)
    if not chosen:
        left = "; ".join(f"{len(paths):,} {why}" for why, paths in copies.skipped.items())
        raise DataError(f"no object to read in {spec}: {left}", allowed=f"names that end in {', '.join(kinds)}")
    if "*" not in spec:
        _refuse_several(spec, [one for one in chosen if kind_of(Path(one.name)) in (*TABLES, *DELIMITED)])
    folder = cache_folder("objects")
    missing = [one for one in chosen if not _is_copied(folder, one)]
    size = sum(one.size or 0 for one in missing)
    if missing:
        logger.info("copying %s of %s (%.1f MB) into %s", _objects(missing), spec, size / 1e6, folder)
    known = None if any(one.size is None for one in missing) else size
    with phase("copying", known) as copying, ThreadPoolExecutor(_AT_ONCE, "copy") as pool:
        copies.files.extend(pool.map(partial(_copied, folder, place, copying.advance), chosen))
    return copies


def _refuse_several(spec: str, tables: Sequence[Object]) -> None:
    """Raises DataError where a folder holds several splits, of which it must be said which is meant."""
    top = Path(spec)
    splits = splits_by_name(top, (path for one in tables if (path := Path(one.url)).is_relative_to(top)))
    if len(splits) > 1:
        of = {Path(one.url): one.url for one in tables}
        first = [of[files[0]] for files in splits.values()]
        raise DataError(
            f"{spec} holds several splits: {', '.join(splits)}",
            allowed=f"a glob or a list of the files of one, among them {', '.join(first[:8])}",
            cure=f"data.train={first[0]} data.held_out={first[1]}",
        )


def _objects(some: Sequence[Object]) -> str:
    return f"{len(some):,} object{'s' * (len(some) != 1)}"


def _path(folder: Path, one: Object) -> Path:
    """Where a copy is kept: a name that any file system takes, in folders as in the store."""
    parts = urlsplit(one.url)
    above = [name for name in parts.path.split("/")[:-1] if name not in ("", ".", "..")]
    asked = [hashlib.blake2b(parts.query.encode(), digest_size=6).hexdigest()] if parts.query else []
    return folder.joinpath(parts.scheme, parts.netloc.rpartition("@")[2], *above, *asked, one.name)


def _entry(folder: Path, one: Object) -> Path:
    name = hashlib.blake2b(one.url.encode(), digest_size=16).hexdigest()
    return folder / _MANIFEST / f"{name}.json"


def _is_copied(folder: Path, one: Object) -> bool:
    """Whether the copy is of the version that the store has now, and nobody has touched it."""
    path = _path(folder, one)
    try:
        known, found = json.loads(_entry(folder, one).read_bytes()), path.stat()
    except (OSError, ValueError):
        return False
    return bool(one.version) and known == _known(one) | {"bytes": found.st_size, "changed": found.st_mtime_ns}


def _known(one: Object) -> dict[str, Any]:
    return asdict(one) | {"version": list(one.version)}


def _copied(folder: Path, place: Store, told: Told, one: Object) -> Path:
    path = _path(folder, one)
    with waiting_for(_entry(folder, one).with_suffix(".lock")):
        if not _is_copied(folder, one):
            with naming_full_disk(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                arriving = path.with_name(f".{path.name}.part-{_mark(one)}")
                _read(place, one, arriving, told)
                arriving.replace(path)
                store.flush_folder(path.parent)
            found = path.stat()
            entry = _known(one) | {"bytes": found.st_size, "changed": found.st_mtime_ns}
            store.write_text(_entry(folder, one), json.dumps(entry))
    return path


def _mark(one: Object) -> str:
    """What tells the beginning of one version from that of another."""
    return hashlib.blake2b(repr((one.url, one.size, one.version)).encode(), digest_size=6).hexdigest()


def _read(place: Store, one: Object, arriving: Path, told: Told) -> None:
    """Reads an object into a file: goes on behind what has arrived, where its version and the store allow it."""
    if not one.version:
        arriving.unlink(missing_ok=True)
    with arriving.open("ab") as file:
        have = file.tell()
        try:
            try:
                _read_on(place.open(one, in_parts=True), file, have, told)
            except ValueError:  # a web server that has no parts
                file.truncate(0)
                _read_on(place.open(one, in_parts=False), file, 0, told)
        except Exception as error:
            file.flush()
            of = "" if one.size is None else f" of {one.size:,}"
            if (known := place.told(error, one.url, f"{file.tell():,}{of} bytes have arrived")) is None:
                raise
            raise known from error
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    if one.size is not None and size != one.size:
        if size > one.size:
            arriving.unlink()  # it is of another version
        raise DataError(
            f"{one.url} was not read to its end: {size:,} of {one.size:,} bytes have arrived",
            cure="the same command again",
        )


def _read_on(source: Any, file: Any, have: int, told: Told) -> None:
    with source:
        if have:
            source.seek(have)
            told(have)
        while data := source.read(_PART):
            file.write(data)
            told(len(data))
