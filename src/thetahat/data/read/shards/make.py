"""Parses files, or a stretch of one, and publishes what they hold as shards: a task for a process of its own."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from thetahat.core import store
from thetahat.core.errors import DataError
from thetahat.data.config import ReadOptions
from thetahat.data.read.bad import BadRecords
from thetahat.data.read.manifest import stamp_of
from thetahat.data.read.objects import Stretch
from thetahat.data.read.opening import COMPRESSIONS
from thetahat.data.read.shards.kept import BLOCK_BYTES, ShardWriter
from thetahat.data.read.shards.parse import RecordFile

SHARD_BYTES = 1 << 25  # of text, about: what is read again at most when a process was killed
FACTS = "facts.json"
_PACKED = 3  # times as many bytes as a compressed file has, about, are in it
Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Source:
    """What is parsed: a file, or what is not in shards yet of it."""

    path: str
    label: str
    key: str  # a digest of all that its records depend on
    stamp: tuple[int, ...]
    size: int  # bytes in the file of what is parsed
    stretch: tuple[int, int, int] | None = None  # of a large file, where that is possible: see `Stretch`
    is_last: bool = True  # whether nothing of the file comes behind it
    skip: int = 0  # objects that are in shards already, where it is not


@dataclass(slots=True)
class Piece:
    """Records of one file that stand one behind the other in a shard."""

    key: str
    first: int  # the byte, or the number of the object, with which it begins
    next: int = 0  # with which the rest of the file begins
    is_last: bool = True
    records: int = 0
    objects: int = 0
    bad: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # what of it cannot be read: the errors


def make(task: Mapping[str, Any], told: Told) -> dict[str, Any]:
    """Reads the sources of a task in turn, and publishes shards in its folder; tells how many bytes it has read."""
    shard = _Shard(Path(task["folder"]))
    for fields in task["sources"]:
        if shard.is_full:
            shard = shard.publish()
        shard = _Parsing(Source(**fields), ReadOptions(**task["options"]), told).into(shard)
    shard.publish()
    return {}


def task_of(folder: Path, options: ReadOptions, sources: list[Source]) -> dict[str, Any]:
    """A task for `make`."""
    return {"folder": str(folder), "options": asdict(options), "sources": [asdict(source) for source in sources]}


@final
class _Parsing:
    """One source on its way into shards."""

    def __init__(self, source: Source, options: ReadOptions, told: Told) -> None:
        self._source, self._options, self._told = source, options, told
        self._stretch = Stretch(*source.stretch) if source.stretch else None
        self._piece = Piece(source.key, self._stretch.start if self._stretch else source.skip)
        self._seen = 0  # objects
        self._left, self._behind = source.size, 0  # bytes that are not told yet, and of these read

    def into(self, shard: "_Shard") -> "_Shard":
        """Adds its records to a shard, and to more where that is full; gives the last one."""
        source, path = self._source, Path(self._source.path)
        shard.stamps[source.path] = tuple(source.stamp)
        file = RecordFile(path, source.label, self._options)
        for number, fields in file.objects(self._is_bad, self._stretch):
            self._seen += 1
            if self._seen <= source.skip:
                continue
            if shard.is_full and self._piece.objects and not self._stretch:
                self._close(shard, self._seen - 1, is_last=False)
                shard = shard.publish()
                shard.stamps[source.path] = tuple(source.stamp)
            self._piece.objects += 1
            try:
                records = file.records(number, fields)
            except DataError as error:
                self._is_bad(error)
                continue
            for record in records:
                self._tell(shard.records.add(record))
                self._piece.records += 1
        self._close(shard, self._stretch.stop if self._stretch else self._seen, is_last=source.is_last)
        self._told(self._left)
        return shard

    def _is_bad(self, error: DataError) -> None:
        if self._seen > self._source.skip or not self._source.skip:  # else a shard has it
            bad = BadRecords("skip")
            bad(error)
            self._piece.bad += bad.told()

    def _tell(self, size: int) -> None:
        self._behind += size
        if self._behind >= BLOCK_BYTES:
            is_packed = Path(self._source.path).suffix.lower() in COMPRESSIONS
            number = min(self._behind // (_PACKED if is_packed else 1), self._left)
            self._behind, self._left = 0, self._left - number
            self._told(number)

    def _close(self, shard: "_Shard", place: int, *, is_last: bool) -> None:
        self._piece.next, self._piece.is_last = place, is_last
        shard.pieces.append(self._piece)
        self._piece = Piece(self._source.key, place)


@final
class _Shard:
    def __init__(self, folder: Path) -> None:
        self._folder, self.records = folder, ShardWriter()
        self.pieces = list[Piece]()
        self.stamps: dict[str, tuple[int, ...]] = {}

    @property
    def is_full(self) -> bool:
        return self.records.num_bytes >= SHARD_BYTES

    def publish(self) -> "_Shard":
        """Writes it, if its files are still as they were; gives an empty one."""
        if self.pieces:
            with store.publishing(self._folder / shard_name(self.pieces[0].key, self.pieces[0].first)) as partial:
                self.records.write(partial)
                store.write_json(partial / FACTS, {"pieces": [asdict(piece) for piece in self.pieces]})
                if any(stamp_of(Path(path)) != stamp for path, stamp in self.stamps.items()):
                    raise changed()
        return _Shard(self._folder)


def shard_name(key: str, first: int) -> str:
    """The name of the shard that begins with a piece."""
    return hashlib.blake2b(json.dumps([key, first]).encode(), digest_size=16).hexdigest()


def changed() -> DataError:
    """What is raised where a file is no longer as it was when its digest was taken."""
    return DataError("the data changed while it was read", cure="start again when nothing writes to it")
