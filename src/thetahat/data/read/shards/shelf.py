"""The shards of some files: which are there, and those that are missing made, by all cores."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from thetahat.core import store
from thetahat.core.work.phases import phase
from thetahat.core.work.pool import do_all, num_workers, several
from thetahat.core.work.room import check_room
from thetahat.data.config import ReadOptions
from thetahat.data.read.cache import cache_folder, code_digest, is_whole, note_use, waiting_for
from thetahat.data.read.files import label_files
from thetahat.data.read.form.trees import is_tree
from thetahat.data.read.manifest import digests_of, stamp_of
from thetahat.data.read.named.kind import holds_objects, kind_of_file
from thetahat.data.read.objects import read_objects, stretches
from thetahat.data.read.opening import COMPRESSIONS
from thetahat.data.read.shards.make import FACTS, SHARD_BYTES, Piece, Source, changed, task_of

_FILES_AT_ONCE = 4096  # in one task
_MAKE = "thetahat.data.read.shards.make:make"
_OF_COPY = 0.6  # of the bytes of a text, about, that its copy has; of a compressed one 1.6


@dataclass(frozen=True, slots=True)
class Place:
    """Where the records of a piece stand."""

    shard: Path
    row: int
    piece: Piece


@final
class Shelf:
    """The shards of the files below a folder that are read in the same way by the same code."""

    def __init__(self, files: Sequence[Path], digests: Sequence[str], options: ReadOptions) -> None:
        self._files, self._digests, self._options = files, digests, options
        above = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
        self._above = above
        self.folder = cache_folder("records") / digest_of([code_digest(), options.told(), above])
        named = zip(files, label_files(files), digests, strict=True)
        self._labels = label_files(files)
        self._keys = [digest_of([str(path), label, digest]) for path, label, digest in named]

    def places(self) -> list[list[Place]]:
        """Of each file where its records are, in order; what is missing is made."""
        with waiting_for(self.folder.with_name(f".{self.folder.name}.lock")):
            known = self._whole()
            missing = [index for index, key in enumerate(self._keys) if _chain(key, known)[1] is not None]
            if missing:
                self._make(missing, known)
                known = self._known()
        note_use(self.folder, {"of": self._above, "read": self._options.told()})
        return [_chain(key, known)[0] for key in self._keys]

    def _whole(self) -> dict[tuple[str, int], Place]:
        """What is known, without the shards of these files that are damaged, which are removed."""
        known = self._known()
        used = {place.shard for key in self._keys for place in _chain(key, known)[0]}
        damaged = [shard for shard in used if not is_whole(shard)]
        return self._known() if damaged else known

    def _known(self) -> dict[tuple[str, int], Place]:
        found: dict[tuple[str, int], Place] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        store.remove_partial(self.folder)
        for shard in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            row = 0
            for fields in _pieces(shard):
                piece = Piece(**fields)
                found[piece.key, piece.first] = Place(shard, row, piece)
                row += piece.records
        return found

    def _make(self, missing: Sequence[int], known: dict[tuple[str, int], Place]) -> None:
        stamps = [stamp_of(path) for path in self._files]
        if digests_of(self._files, cache_folder("files")) != self._digests:
            raise changed()
        sources = [source for index in missing for source in self._sources(index, stamps[index][0], known)]
        num_bytes = sum(source.size for source in sources)
        packed = sum(source.size for source in sources if Path(source.path).suffix.lower() in COMPRESSIONS)
        check_room(self.folder, int(_OF_COPY * num_bytes + packed), "a compact copy of the text")
        asked = (task_of(self.folder, self._options, some) for some in _grouped(sources))
        tasks, workers = several(asked, num_workers())
        with phase("reading", num_bytes) as reading:
            for _ in do_all(_MAKE, tasks, reading.advance, workers):
                pass
        if [stamp_of(path) for path in self._files] != stamps:
            raise changed()

    def _sources(self, index: int, size: int, known: dict[tuple[str, int], Place]) -> Iterator[Source]:
        path, key = self._files[index], self._keys[index]
        told = str(path), self._labels[index], key, stamp_of(path)
        if size <= SHARD_BYTES or not _can_be_stretched(path, self._options):
            _, skip = _chain(key, known)
            yield Source(*told, size, skip=skip or 0)
            return
        for stretch in stretches(path, kind_of_file(path), self._options.split_on, SHARD_BYTES):
            if (key, stretch.start) not in known:
                parts = (stretch.start, stretch.stop, stretch.number)
                yield Source(*told, stretch.stop - stretch.start, parts, stretch.stop >= size)


def _pieces(shard: Path) -> list[dict[str, Any]]:
    """What it says that it holds; nothing if it is damaged, which removes it."""
    try:
        return json.loads((shard / FACTS).read_bytes())["pieces"]
    except (OSError, ValueError):
        store.remove(shard)
        return []


def _can_be_stretched(path: Path, options: ReadOptions) -> bool:
    """Whether reading may begin in the middle of a file."""
    if path.suffix.lower() in COMPRESSIONS:
        return False
    if not holds_objects(path):
        return options.split_on is not None
    return kind_of_file(path) == ".jsonl" and not _holds_trees(path)


def _holds_trees(path: Path) -> bool:
    """Whether a file holds trees of messages, each of which may stand in many lines."""
    _, fields = next(read_objects(path, on_error=lambda _: None), (0, {}))
    return is_tree(fields)


def _chain(key: str, known: dict[tuple[str, int], Place]) -> tuple[list[Place], int | None]:
    """What is there of a file from its beginning, and where the rest begins; None: there is no rest."""
    found, place = list[Place](), 0
    while (one := known.get((key, place))) is not None:
        found.append(one)
        if one.piece.is_last:
            return found, None
        place = one.piece.next
    return found, place


def _grouped(sources: Sequence[Source]) -> Iterator[list[Source]]:
    """Sources that make about one shard together."""
    some, size = list[Source](), 0
    for source in sources:
        if some and (size + source.size > SHARD_BYTES or len(some) >= _FILES_AT_ONCE):
            yield some
            some, size = [], 0
        some.append(source)
        size += source.size
    if some:
        yield some


def digest_of(value: object) -> str:
    """A short name for a JSON value."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()
