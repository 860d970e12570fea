"""Where a dataset lies: a path, a folder, a glob, a URL, standard input or a text that comes with the package."""

import fnmatch
import functools
import glob
import importlib.resources
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from logging import INFO, WARNING, getLogger
from pathlib import Path
from shlex import quote
from typing import NoReturn

from thetahat.core.errors import DataError
from thetahat.data.read.foreign import refused_by_name
from thetahat.data.read.named.kind import (
    ALLOWED,
    ARRAY,
    KINDS,
    LINES,
    is_of_no_kind,
    kind_of_file,
    kinds_named,
    why_no_text,
)
from thetahat.data.read.named.near import did_you_mean
from thetahat.data.read.named.standard_input import keep_standard_input
from thetahat.data.read.remote.copy import copies_of
from thetahat.data.read.remote.place import is_url
from thetahat.data.read.table.delimited import DELIMITED, Dialect, dialect_of
from thetahat.data.read.table.rows import TABLES
from thetahat.data.read.table.splits import (
    METADATA,
    SPLITS,
    declared_splits,
    incomplete,
    refuse_several,
    saved_files,
    splits_by_name,
)

logger = getLogger("thetahat")

_SHOWN = 5  # names in a line
_OTHER = "of another kind"
_NAMED = 3  # files and globs, in a line
_LOOKED = 8  # files of an ending that are looked into, whether they are text


@dataclass(frozen=True, slots=True)
class Found:
    """What a spec names: the files to read, and what is left out, by the reason."""

    files: list[Path] = field(default_factory=list[Path])
    skipped: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])
    notes: list[str] = field(default_factory=list[str])  # what else is to be said

    def skip(self, path: Path, why: str) -> None:
        """Keeps account of a file or folder that is not read."""
        self.skipped.setdefault(why, []).append(path)


def find_files(specs: str | Sequence[str]) -> list[Path]:
    """The files that are named, each once; raises DataError where one is named twice, by whatever names.

    Files of a folder or a glob come in the order of their paths. What is left out there is logged.
    """
    files: list[Path] = []
    for spec in [specs] if isinstance(specs, str) else specs:
        found = survey(spec)
        _tell(spec, found)
        for note in found.notes:
            say_once(f"{spec}: {note}")
        files += found.files
    _tell_dialects(files)
    _tell_plain(files)
    known: dict[tuple[int, int], Path] = {}
    for file in files:
        _check_name(file)
        if (first := known.setdefault(identity(file), file)) is not file:
            what = f"{file} is named twice" if first == file else f"{file} is the same file as {first}"
            raise DataError(what, cure="name each file once, and remove or move links to it")
    return files


def survey(spec: str) -> Found:
    """The files behind one spec, and what is left out: hidden files and folders, other kinds, links back."""
    if spec == "-":
        return Found([keep_standard_input()])
    if spec.startswith("bundled:"):
        return Found([_bundled(spec.removeprefix("bundled:"))])
    if is_url(spec):
        copies = copies_of(spec, kind_of_file, KINDS)
        return Found(copies.files, copies.skipped, incomplete(copies.files))
    path, found = _expanded(spec), Found()
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:
        if not glob.has_magic(spec):
            if isinstance(error, FileNotFoundError) and (found := _split(path)) is not None:
                return _sorted(found, f"no file to read in the split {spec}")
            raise _missing(spec, error) from error
        for match in set(_expand(Path(path.anchor or "."), path.relative_to(path.anchor).parts)):
            _add(match, found, kinds_named(path) if kind_of_file(path) else KINDS)
        return _sorted(found, f"no file to read matches {spec}")
    if not is_folder:
        _add(path, found, kinds_named(path), by_name=True)
        return found if found.files else _refuse_kind(spec, path, found)
    return _sorted(_of_folder(path), f"no file to read in the folder {spec}")


def _of_folder(folder: Path) -> Found:
    """What a folder holds; of a dataset of several splits it must be said which is meant."""
    splits, found = declared_splits(folder), _all_of(folder)
    refuse_several(folder, splits or splits_by_name(folder, (path for path in found.files if _is_table(path))))
    for files in splits.values():
        found = _only(files, found)
    found.notes.extend(incomplete(found.files))
    return found


def _split(path: Path) -> Found | None:
    """The files of FOLDER/SPLIT, where no such folder exists; None where the folder has no splits."""
    folder = next(above for above in path.parents if above.exists())
    if not folder.is_dir() or folder == Path() or folder == Path(path.anchor):
        return None
    found = _all_of(folder, deepest=2)
    splits = declared_splits(folder) or splits_by_name(folder, found.files)
    name = path.relative_to(folder).as_posix()
    if name in splits:
        found = _only(splits[name], Found())
        found.notes.extend(incomplete(found.files))
        return found
    if splits and name.count("/") < 2 and not Path(name).suffix:
        what = f"{folder} has no split {name!r}, and no folder or file of this name"
        raise DataError(what, allowed=", ".join(f"{folder / split}" for split in list(splits)[:8]))
    return None


def _only(files: Sequence[Path], found: Found) -> Found:
    """These files, as far as they are of a kind that is read, and all others that are there as left out."""
    chosen = Found(skipped={why: [*paths] for why, paths in found.skipped.items()})
    for path in files:
        _add(path, chosen, (*KINDS, ARRAY))
    read = {*chosen.files, *(path for paths in chosen.skipped.values() for path in paths)}
    for path in found.files:
        if path not in read:
            chosen.skip(path, "not named as data of the dataset")
    return chosen


def _all_of(folder: Path, deepest: int | None = None) -> Found:
    """All below a folder; where a dataset was saved, what it names."""
    found = Found()
    for below in _folders(folder, found, deepest):
        saved = saved_files(below)
        entries = [Path(entry.path) for entry in _entries(below) if not entry.is_dir()]
        is_dataset = saved is not None or (below / SPLITS) in entries
        for path in entries:
            if is_dataset and path.name in METADATA:
                continue
            if saved is not None and _is_table(path) and path not in saved:
                found.skip(path, "not named as data of the dataset")
            else:
                _add(path, found, KINDS)
    return found


def _is_table(path: Path) -> bool:
    return kind_of_file(path) in (*TABLES, *DELIMITED)


def _refuse_kind(spec: str, path: Path, found: Found) -> NoReturn:
    what, cure = refused_by_name(path, kind_of_file(path))
    left_out = what or _described(found.skipped)
    if LINES in found.skipped:
        cure = f"mv {quote(spec)} {quote(spec)}.jsonl"
    raise DataError(f"{spec} is not a kind of file that is read here: {left_out}", allowed=ALLOWED, cure=cure)


def _sorted(found: Found, otherwise: str) -> Found:
    if not found.files:
        left_out = f"; left out: {_described(found.skipped)}" if found.skipped else ""
        raise DataError(otherwise + left_out, allowed=ALLOWED, cure=_other_texts(found))
    found.files.sort(key=Path.as_posix)
    return found


def identity(path: Path) -> tuple[int, int]:
    """What is the same for all names of one file: the numbers of its device and inode."""
    found = path.stat()
    return found.st_dev, found.st_ino


def label_files(files: Sequence[Path]) -> list[str]:
    """A short, different name for each file: its own, or where two share one, its path below their common folder."""
    names = [file.name for file in files]
    if len(set(names)) == len(names):
        return names
    whole = [os.path.abspath(file) for file in files]
    common = os.path.commonpath([os.path.dirname(file) for file in whole])
    return [Path(os.path.relpath(file, common)).as_posix() for file in whole]


def _expanded(spec: str) -> Path:
    """The path with ~ for the user's home, unless a file has just this name; a ~name of nobody stays as it is."""
    return Path(spec) if os.path.lexists(spec) else Path(os.path.expanduser(spec))


def _missing(spec: str, error: OSError | ValueError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"no such file or folder: {spec}", allowed=ALLOWED, cure=did_you_mean(spec))
    why = getattr(error, "strerror", None) or str(error)
    return DataError(f"{spec[:200]} cannot be read: {why}", allowed=ALLOWED)


def _add(path: Path, found: Found, kinds: Sequence[str], *, by_name: bool = False) -> None:
    """Takes a file to be read, or says why not."""
    if path.name.startswith(".") and not by_name:
        found.skip(path, "hidden")
    elif path.is_file():
        why = _why_not(path, kinds)
        found.skip(path, why) if why else found.files.append(path)
    elif path.is_dir():
        found.skip(path, "a folder that only its name matches")
    else:
        found.skip(path, "a link to nothing" if path.is_symlink() else "no plain file")


def _why_not(path: Path, kinds: Sequence[str]) -> str:
    if kind_of_file(path) not in kinds:
        return _OTHER
    return why_no_text(path) if is_of_no_kind(path) else ""


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error


def _folders(top: Path, found: Found, deepest: int | None = None) -> Iterator[Path]:
    """A folder and all below it, each once; none that is hidden, and none to which a link only leads back or up."""
    known = set(map(identity, (top, *top.resolve().parents)))
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        yield folder
        below = sorted((entry for entry in _entries(folder) if entry.is_dir()), key=lambda entry: entry.name)
        for entry in sorted(below, key=lambda entry: entry.is_symlink()):  # its own name comes before a link's
            path = Path(entry.path)
            if entry.name.startswith("."):
                found.skip(path, "hidden")
            elif identity(path) in known:
                found.skip(path, "a link to a folder above or read already")
            elif deepest is None or len(path.relative_to(top).parts) <= deepest:
                known.add(identity(path))
                waiting.append(path)


def _expand(folder: Path, pattern: Sequence[str]) -> Iterator[Path]:
    """What matches a glob below a folder; `**` goes round no loop of links, and * matches no leading dot."""
    head, *rest = pattern
    if head == "**":
        for below in _folders(folder, Found()):
            yield from _expand(below, rest or ["*"])
        return
    if glob.has_magic(head):
        names = [entry.name for entry in _entries(folder) if fnmatch.fnmatchcase(entry.name, head)]
        paths = [folder / name for name in names if head.startswith(".") or not name.startswith(".")]
    else:
        paths = [folder / head] if os.path.lexists(folder / head) else []
    for path in paths:
        if not rest:
            yield path
        elif path.is_dir():
            yield from _expand(path, rest)


def _described(skipped: dict[str, list[Path]]) -> str:
    def names(paths: list[Path]) -> str:
        more = f" and {len(paths) - _SHOWN:,} more" if len(paths) > _SHOWN else ""
        return ", ".join(_shown(path) for path in sorted(paths)[:_SHOWN]) + more

    return "; ".join(f"{len(paths):,} {why} ({names(paths)})" for why, paths in skipped.items())


def _tell(spec: str, found: Found) -> None:
    """One line about what is left out; once a process, however often the files are looked for."""
    nested = "a folder that only its name matches"
    read = {str(parent) for file in found.files for parent in file.parents} if nested in found.skipped else set[str]()
    skipped = {
        why: paths
        for why, some in found.skipped.items()
        if (paths := [path for path in some if why != nested or str(path) not in read])
    }
    if skipped:
        too = f"; to read more of them, name them, too: {others}" if (others := _other_texts(found)) else ""
        say_once(f"{spec}: {len(found.files):,} files are read; left out: {_described(skipped)}{too}")


def _other_texts(found: Found) -> str:
    """Globs of the texts that a folder or a glob leaves out, by the endings of their names; empty where none is."""
    by_ending: dict[str, list[Path]] = {}
    for path in sorted(found.skipped.get(_OTHER, ())):
        by_ending.setdefault(kind_of_file(path), []).append(path)
    named: list[str] = []
    for kind, paths in sorted(by_ending.items(), key=lambda one: -len(one[1])):
        texts = [path for path in paths[:_LOOKED] if kind in kinds_named(path) and not why_no_text(path)]
        if len(paths) == 1 or not kind:
            named += map(str, texts)
        elif texts:
            common = Path(os.path.commonpath([path.parent for path in paths]))
            named.append(f"{common}/**/*{kind}")
    return " ".join(map(quote, named[:_NAMED]))


def _tell_dialects(files: Sequence[Path]) -> None:
    """Says how the cells of CSV are parted, and what names them; once for all files that are alike."""
    alike: dict[Dialect, list[Path]] = {}
    for file in files:
        if (kind := kind_of_file(file)) in DELIMITED:
            alike.setdefault(dialect_of(file, kind), []).append(file)
    for dialect, some in alike.items():
        more = f" and {len(some) - 1:,} more" if len(some) > 1 else ""
        say_once(f"{_shown(some[0])}{more}: {dialect}", INFO)


def _tell_plain(files: Sequence[Path]) -> None:
    """Says which files are read as plain text since their names say nothing else."""
    if plain := [path for path in files if is_of_no_kind(path)]:
        more = f" and {len(plain) - _SHOWN:,} more" if len(plain) > _SHOWN else ""
        say_once(f"read as plain text: {', '.join(map(_shown, plain[:_SHOWN]))}{more}", INFO)


@functools.cache
def say_once(line: str, level: int = WARNING) -> None:
    """Logs a line, once a process."""
    logger.log(level, "%s", line)


def _shown(path: Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _check_name(file: Path) -> None:
    """Names become sources and ids, which are text."""
    try:
        str(file).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name of {_shown(file)} is not UTF-8", cure="rename it, for example with convmv"
        ) from error


def _bundled(name: str) -> Path:
    folder = Path(str(importlib.resources.files("thetahat.data"))) / "bundled"
    path = folder / f"{name}.txt"
    if not path.is_file():
        names = ", ".join(f"bundled:{file.stem}" for file in sorted(folder.glob("*.txt")))
        raise DataError(f"no text called {name!r} comes with the package", allowed=names)
    return path
