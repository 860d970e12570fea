"""The splits of a dataset: which files of a folder are its training set, which its test set, and so on.

mine/dataset_dict.json, mine/train/state.json, mine/train/data-00000-of-00001.arrow   as save_to_disk writes it
mine/README.md with `configs:`                                                        as the hub describes it
mine/data/train-00000-of-00002.parquet, mine/test/0000.parquet, mine/dev.parquet      as the hub lays it
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

from thetahat.core.errors import DataError

STATE, SPLITS, INFO, CARD = "state.json", "dataset_dict.json", "dataset_info.json", "README.md"
METADATA = frozenset({STATE, SPLITS, INFO})  # beside the data of a saved dataset
Splits = dict[str, list[Path]]  # by what is typed behind the folder: SPLIT, or CONFIG/SPLIT

_SHARD = re.compile(r"(?:.*-)?(?P<split>\w[\w.]*)-(?P<index>\d{5})-of-(?P<total>\d{5})(?:-[0-9a-f]+)?")
_KEYWORDS = frozenset(
    ["train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"]
)
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_FORM = "configs: [{config_name: ..., data_files: [{split: ..., path: ...}]}]"


def saved_files(folder: Path) -> list[Path] | None:
    """The files of a dataset that `save_to_disk` wrote into this very folder; None: it wrote none."""
    if not (folder / STATE).is_file():
        return None
    try:
        state = _object(folder / STATE)
    except DataError:
        if (folder / INFO).is_file():
            raise
        return None  # it is of something else
    if "_data_files" not in state:
        return None
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise DataError(f"{folder}: its rows are chosen by a file of indices", cure="flatten_indices() of `datasets`")
    try:
        names = [str(one["filename"]) for one in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / STATE}: no list of files with names below _data_files") from error
    files = [folder / _inside(name, folder / STATE) for name in names]
    if lost := [path for path in files if not path.is_file()]:
        raise DataError(f"{lost[0]} is not there, and {STATE} names it", cure="copy or download the folder again")
    return files


def declared_splits(folder: Path) -> Splits:
    """The splits that the files of a dataset tell themselves; none where they tell nothing."""
    if (folder / SPLITS).is_file():
        names = _object(folder / SPLITS).get("splits")
        if not isinstance(names, list) or not names:
            raise DataError(f"{folder / SPLITS}: no list of splits")
        return {str(name): _saved(folder / _inside(str(name), folder / SPLITS)) for name in cast("list[Any]", names)}
    return (_of_card(folder) if (folder / CARD).is_file() else {}) or _of_cache(folder)


def _of_cache(folder: Path) -> Splits:
    """The splits of a folder in which `datasets` keeps what it downloaded: NAME-SPLIT.arrow, or several of a split."""
    if not (folder / INFO).is_file() or (folder / STATE).exists():
        return {}
    try:
        names = [str(name) for name in _object(folder / INFO).get("splits") or ()]
    except DataError:
        return {}  # it is of something else
    there = sorted(folder.glob("*.arrow"))
    ends = {name: re.compile(rf".+-{re.escape(name)}(?:-\d{{5}}-of-\d{{5}})?\.arrow") for name in names}
    found = {name: [path for path in there if end.fullmatch(path.name)] for name, end in ends.items()}
    return {name: files for name, files in found.items() if files}


def splits_by_name(top: Path, files: Iterable[Path]) -> Splits:
    """The files below a folder by the split that their names tell; those that tell none are left out."""
    found: Splits = {}
    for path in files:
        if name := _split_of(PurePosixPath(path.relative_to(top).as_posix())):
            found.setdefault(name, []).append(path)
    return dict(sorted(found.items(), key=lambda pair: (not pair[0].startswith("train"), pair[0])))


def refuse_several(folder: Path, splits: Splits) -> None:
    """Raises DataError where it must be said which split is meant."""
    if len(splits) > 1:
        names = [f"{folder / name}" for name in splits]
        what = f"{folder} holds several splits: {', '.join(splits)}"
        raise DataError(what, allowed=", ".join(names[:8]), cure=f"data.train={names[0]} data.held_out={names[1]}")


def incomplete(files: Iterable[Path]) -> list[str]:
    """A line for each set of numbered files of which some are not there."""
    sets: dict[tuple[Path, str, str], set[int]] = {}
    for path in files:
        if match := _SHARD.fullmatch(path.name.partition(".")[0]):
            sets.setdefault((path.parent, match["split"], match["total"]), set()).add(int(match["index"]))
    return [
        f"{len(there):,} of {int(total):,} files of {parent / split} are there"
        for (parent, split, total), there in sets.items()
        if len(there) < int(total)
    ]


def _split_of(path: PurePosixPath) -> str:
    stem = path.name.partition(".")[0]
    if match := _SHARD.fullmatch(stem):
        return match["split"]
    if named := [name for name in path.parts[:-1] if name in _KEYWORDS]:
        return named[-1]
    if re.fullmatch(r"\d{4}", stem) and len(path.parts) > 1:  # the hub's own copy as Parquet: CONFIG/SPLIT/0000.parquet
        return path.parts[-2]
    words = re.split(r"[-._ ]", stem)
    return next((word for word in (words[0], words[-1]) if word in _KEYWORDS), "")


def _saved(folder: Path) -> list[Path]:
    if (files := saved_files(folder)) is None:
        raise DataError(f"{folder} is no saved dataset: it has no {STATE}", cure="copy or download the folder again")
    return files


def _of_card(folder: Path) -> Splits:
    """What a README's `configs` say; splits of the default one are typed without its name."""
    front = _FRONT.match((folder / CARD).read_text(encoding="utf-8", errors="replace"))
    if front is None or not re.search(r"^configs:", front[1], re.MULTILINE):
        return {}
    from yaml import YAMLError, safe_load

    try:
        configs = safe_load(front[1])["configs"]
        several = [(str(one.get("config_name", "default")), one) for one in configs]
    except (YAMLError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{folder / CARD}: its configs cannot be read", allowed=_FORM) from error
    found: Splits = {}
    for name, config in several:
        is_default = len(several) == 1 or name == "default" or config.get("default") is True
        for split, files in _of_config(folder, config).items():
            found[split if is_default else f"{name}/{split}"] = files
    return found


def _of_config(folder: Path, config: Mapping[str, Any]) -> Splits:
    below = folder / _inside(str(config.get("data_dir") or "."), folder / CARD)
    match config.get("data_files"):
        case None:
            there = sorted(path for path in below.rglob("*") if path.is_file() and not path.name.startswith("."))
            return splits_by_name(below, there) or {"train": [path for path in there if path.suffix == ".parquet"]}
        case str(pattern):
            told = [("train", [pattern])]
        case dict() as table:
            told = [(str(split), _patterns(given)) for split, given in cast("dict[Any, Any]", table).items()]
        case list() as several if all(isinstance(one, str) for one in cast("list[Any]", several)):
            told = [("train", cast("list[str]", several))]
        case list() as several if all(isinstance(one, dict) and "split" in one for one in cast("list[Any]", several)):
            told = [(str(one["split"]), _patterns(one.get("path"))) for one in cast("list[dict[str, Any]]", several)]
        case _:
            raise DataError(f"{folder / CARD}: data_files that cannot be read", allowed=_FORM)
    return {split: _matching(below, patterns, folder / CARD) for split, patterns in told}


def _patterns(given: Any) -> Sequence[str]:
    return [str(one) for one in cast("list[Any]", given)] if isinstance(given, list) else [str(given)]


def _matching(folder: Path, patterns: Sequence[str], named_in: Path) -> list[Path]:
    found: dict[Path, None] = {}
    for pattern in patterns:
        inside = _inside(pattern, named_in)
        try:
            below = sorted(folder.glob(f"{inside}/*" if inside.endswith("**") else inside))
        except ValueError as error:
            raise DataError(f"{named_in} names {pattern!r}", allowed="files, or a glob of them") from error
        found |= dict.fromkeys(path for path in below if path.is_file() and not path.name.startswith("."))
    return list(found)


def _inside(name: str, named_in: Path) -> str:
    """The name of a file, if it lies in the folder that names it."""
    path = PurePosixPath(name)
    if "://" in name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise DataError(f"{named_in} names {name!r}", allowed="files in its own folder")
    return path.as_posix()


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON", cure="copy or download the folder again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no object", cure="copy or download the folder again")
    return cast("dict[str, Any]", value)
