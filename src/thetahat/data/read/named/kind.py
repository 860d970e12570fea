"""The kind of a file: by the ending of its name, and where that says nothing, plain text if it was named itself."""

import glob
from pathlib import Path

from thetahat.data.read.foreign import ENDINGS, recognised
from thetahat.data.read.opening import COMPRESSIONS, ORDER_MARK, opening
from thetahat.data.read.strict_json import decode_json
from thetahat.data.read.table.delimited import DELIMITED
from thetahat.data.read.table.rows import TABLES

ARRAY = ".json"
KINDS = (".txt", ".jsonl", *DELIMITED, *TABLES)
_OBJECTS = (".jsonl", ARRAY, *DELIMITED, *TABLES)
_SAME = {".ndjson": ".jsonl", ".jsonlines": ".jsonl", ".markdown": ".md"}
LINES = "lines of JSON, by the first one"
_START = 1 << 16  # bytes that are looked at to tell text
ALLOWED = (
    f"files that end in {', '.join(KINDS)} (or, compressed, in {', '.join('.jsonl' + end for end in COMPRESSIONS)}), "
    f"a folder or a glob of these; a split of a dataset, FOLDER/SPLIT; by its name, or by a glob that ends as it does, "
    f"{ARRAY}, and any other text (.md, .rst, README); - for standard input"
)


def kind_of_file(path: Path) -> str:
    """The ending of its name in lower case, without that of a compression."""
    name = path.name.lower()
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    kind = Path(name).suffix
    return _SAME.get(kind, kind)


def holds_objects(path: Path) -> bool:
    """Whether the file holds objects, not plain text."""
    return kind_of_file(path) in _OBJECTS


def kinds_named(path: Path) -> tuple[str, ...]:
    """The kinds that are read where a file or a glob is named: those of a folder, and its own."""
    kind = kind_of_file(path)
    return KINDS if kind in ENDINGS or glob.has_magic(kind) else (*KINDS, kind)


def is_of_no_kind(path: Path) -> bool:
    """Whether the ending of its name says nothing: then it is read as plain text."""
    return kind_of_file(path) not in (*_OBJECTS, ".txt", ".md")


def why_no_text(path: Path) -> str:
    """Why a file whose ending says nothing is not read as plain text; empty where it is one, or where reading says."""
    with opening(path) as file:
        start = file.read(_START)
    if recognised(path, start[:64], kind_of_file(path)):
        return ""
    if b"\0" in start:
        return "binary"
    line = start.removeprefix(ORDER_MARK).lstrip().partition(b"\n")[0]
    try:
        return LINES if line.startswith(b"{") and decode_json(line) else ""
    except ValueError:
        return ""
