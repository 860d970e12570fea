"""Large data becomes tokens in shards, by all cores: what is done is kept, should the process end before all is."""

import functools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute, feather

from thetahat.core import store
from thetahat.core.work.phases import phase
from thetahat.core.work.pool import Told, do_all, num_workers, several
from thetahat.core.work.room import check_room
from thetahat.data.corpus.encode import Encoding
from thetahat.data.corpus.rows import Batch, Rows, dtype_of, encode_batches, sizes_of
from thetahat.data.corpus.schemas import SCHEMAS
from thetahat.data.read.bad import BadRecords
from thetahat.data.read.cache import is_whole
from thetahat.data.read.record import Record
from thetahat.data.read.shards.names import Run, read_runs
from thetahat.data.read.source import Mixed, Records, of_source, weighed
from thetahat.data.read.texts import Texts
from thetahat.data.tokens.tokenizer import Tokenizer, load_tokenizer

SHARD_BYTES = 1 << 24  # of text: what is encoded again at most when a process was killed
_MAKE = "thetahat.data.corpus.shards:make"
_PLAN, _KEPT, _SUFFIXES, _FACTS = "plan.json", "kept.npy", "suffixes.npy", "facts.json"
_TOKENS, _SIZES = "tokens.npy", "sizes.npy"
_BYTES_A_TOKEN = 3  # of text, at least, about
_RUNNING = {  # columns with running numbers, and of what
    "parts": {"document": "documents"},
    "spans": {"document": "documents", "sequence": "sequences"},
    "segments": {"start": "tokens", "part": "parts"},
}


@dataclass(frozen=True, slots=True)
class _Source:
    """Where records stand, and which of them are meant."""

    texts: Texts
    kept: NDArray[np.bool_] | None  # None: all


@dataclass(frozen=True, slots=True)
class _Part:
    """What all tasks of one source share."""

    source: str  # of a mixture; "": there is but one
    weight: float  # of it
    weights: dict[str, float]  # of the sources that its records name


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all tasks share."""

    encoding: Encoding
    parts: list[_Part]


def is_large(records: Texts | Records | Mixed) -> bool:
    """Whether records are worth shards: there are many, and the cache knows where they stand."""
    texts = [part.texts for part, _ in _parts_of(records)]
    return min(map(len, texts)) > 1 and sum(int(some.index.sizes.sum()) for some in texts) > 2 * SHARD_BYTES


def encode_in_shards(
    records: Texts | Records | Mixed,
    seen: Iterable[Record],
    tokenizer: Tokenizer,
    encoding: Encoding,
    bad: BadRecords,
    folder: Path,
) -> Iterator[Batch]:
    """The tokens and the tables of the records, a shard at a time; those in the folder are not made again.

    `seen` are the records, which are counted off in step with the shards.
    """
    parts = _parts_of(records)
    _begin(folder, tokenizer, _Plan(encoding, [part for _, part in parts]), [part for part, _ in parts])
    tasks = [task for index, (part, _) in enumerate(parts) for task in _tasks(folder, index, part)]
    num_bytes = sum(task["size"] for task in tasks)
    width = np.dtype(dtype_of(tokenizer)).itemsize
    check_room(folder, int(2 * width * num_bytes / _BYTES_A_TOKEN), "the text as token ids")
    reading = iter(seen)
    numbers = {"documents": 0, "parts": 0, "sequences": 0, "tokens": 0}
    lacking = {task["name"] for task in tasks if not is_whole(folder / task["name"])}
    missing, workers = several([task for task in tasks if task["name"] in lacking], num_workers())
    with phase("encoding", num_bytes) as encoding_phase:
        made = do_all(_MAKE, missing, encoding_phase.advance, workers)
        for task in tasks:
            for _ in islice(reading, task["kept"]):
                pass
            if task["name"] in lacking:
                next(made)
            else:
                encoding_phase.advance(task["size"])
            yield _taken(folder / task["name"], numbers, bad)
        for _ in reading:  # what it checks at its end
            pass


def _parts_of(records: Texts | Records | Mixed) -> list[tuple[_Source, _Part]]:
    if isinstance(records, Texts):
        return [(_Source(records, None), _Part("", 1.0, {}))]
    weights = records.config.source_weights if isinstance(records, Mixed) else {}
    return [
        (_Source(some.texts, some.kept), _Part(name, weights.get(name, 1.0), some.config.source_weights))
        for name, some in records.sources
    ]


def _begin(folder: Path, tokenizer: Tokenizer, plan: _Plan, sources: Sequence[_Source]) -> None:
    """Writes what all tasks read; it is the same each time."""
    folder.mkdir(parents=True, exist_ok=True)
    store.remove_partial(folder)
    for name, text in tokenizer.files().items():
        store.write_text(folder / name, text)
    store.write_text(folder / _PLAN, msgspec.json.encode(plan).decode())
    for index, source in enumerate(sources):
        for name, values in ((_KEPT, source.kept), (_SUFFIXES, source.texts.suffixes)):
            if values is not None:
                with store.replacing(folder / f"{index}-{name}") as file:
                    np.save(file, values)


def _tasks(folder: Path, part: int, source: _Source) -> Iterator[dict[str, Any]]:
    texts, kept = source.texts, source.kept
    ends = np.cumsum(texts.index.sizes if kept is None else np.where(kept, texts.index.sizes, 0))
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        last = min(int(np.searchsorted(ends, before + SHARD_BYTES)) + 1, len(ends))
        number = last - first if kept is None else int(np.count_nonzero(kept[first:last]))
        if number:
            yield {
                "folder": str(folder),
                "name": f"{part:03d}-{first:012d}",
                "part": part,
                "first": first,
                "kept": number,
                "size": int(ends[last - 1]) - before,
                "runs": texts.runs(first, last),
            }
        first = last


def make(task: Mapping[str, Any], told: Told) -> dict[str, Any]:
    """Encodes the records of a task, and publishes them as a shard; tells how many bytes of text it has encoded."""
    folder = Path(task["folder"])
    plan, tokenizer = _read(str(folder))
    rows, bad = Rows(tokenizer), BadRecords("skip")
    records = _selected(folder, plan, task)
    batches = list(encode_batches(_telling(records, told), rows, tokenizer, plan.encoding, bad))
    with store.publishing(folder / task["name"]) as partial:
        np.save(partial / _TOKENS, np.concatenate([tokens for tokens, _, _ in batches]))
        if any(sizes is not None for _, sizes, _ in batches):
            np.save(partial / _SIZES, np.concatenate([sizes_of(ids, some, tokenizer) for ids, some, _ in batches]))
        for name in SCHEMAS:
            table = pa.concat_tables([tables[name] for _, _, tables in batches])
            feather.write_feather(table.unify_dictionaries(), str(partial / f"{name}.arrow"), "uncompressed")
        store.write_json(partial / _FACTS, {"sequences": rows.num_sequences, "bad": bad.told()})
    return {}


def _telling(records: Iterable[Record], told: Told) -> Iterator[Record]:
    waiting = 0
    for record in records:
        yield record
        waiting += len(record.text) if record.prompt is None else len(record.text) + len(record.prompt)
        if waiting >= 1 << 20:
            told(waiting)
            waiting = 0
    told(waiting)


@functools.cache
def _read(folder: str) -> tuple[_Plan, Tokenizer]:
    plan = msgspec.json.decode((Path(folder) / _PLAN).read_bytes(), type=_Plan)
    return plan, load_tokenizer(Path(folder))


def _selected(folder: Path, plan: _Plan, task: Mapping[str, Any]) -> Iterator[Record]:
    """The records of a task, as `Records` gives them."""
    runs: list[Run] = [(shard, low, high) for shard, low, high in task["runs"]]
    part, files = plan.parts[task["part"]], [folder / f"{task['part']}-{name}" for name in (_SUFFIXES, _KEPT)]
    suffixes, kept = (np.load(file, mmap_mode="r") if file.is_file() else None for file in files)
    records = read_runs(runs, suffixes, task["first"])
    for index, record in enumerate(records, start=task["first"]):
        if kept is None or kept[index]:
            one = weighed(record, part.weights)
            yield of_source(one, part.source, part.weight) if part.source else one


def _taken(shard: Path, numbers: dict[str, int], bad: BadRecords) -> Batch:
    """A shard with the running numbers of the whole corpus, of which `numbers` says how far they are."""
    facts = json.loads((shard / _FACTS).read_bytes())
    bad.take(facts["bad"])
    tokens = np.load(shard / _TOKENS)
    sizes = np.load(shard / _SIZES) if (shard / _SIZES).is_file() else None
    tables = {name: feather.read_table(str(shard / f"{name}.arrow"), memory_map=False) for name in SCHEMAS}
    for name, columns in _RUNNING.items():
        for column, kind in columns.items():
            field = SCHEMAS[name].field(column)
            moved = compute.add(tables[name][column], pa.scalar(numbers[kind], field.type))  # pyright: ignore[reportAttributeAccessIssue]
            tables[name] = tables[name].set_column(SCHEMAS[name].get_field_index(column), field, moved)
    numbers["documents"] += len(tables["documents"])
    numbers["parts"] += len(tables["parts"])
    numbers["sequences"] += facts["sequences"]
    numbers["tokens"] += len(tokens)
    return tokens, sizes, tables


def remove_shards(folder: Path) -> None:
    """Removes what a whole corpus needs no longer."""
    shutil.rmtree(folder, ignore_errors=True)
