"""Where another model lies that a run wrote down, after that model, the run, or the tree of both was moved.

What was written is a path, which may lead nowhere now, and a digest, which proves what is found.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from thetahat.core import store
from thetahat.core.errors import ModelError
from thetahat.run.folder.files import MODEL, all_checkpoints, digest_of, folder_of, is_run, is_there, step_of


def find_model_again(name: str, digest: str, folder: Path) -> str | None:
    """The MODEL of this digest that the run or checkpoint in `folder` calls `name`; None where it is not found.

    It may be another checkpoint of the same run, where `name` says the latest. A folder that is none of ours is
    taken by its name, and must be verified.
    """
    path, at, _ = name.rpartition("@")
    for place in _places(Path(path if at else name), folder):
        for checkpoint in _models(place):
            with suppress(ModelError):
                if digest_of(checkpoint, MODEL).startswith(digest):
                    return _named(checkpoint)
        if (place / "config.json").is_file():
            return shown(place)
    return None


def find_checkpoint_again(run: str, step: int, digest: str, folder: Path) -> Path | None:
    """The checkpoint whose manifest has this digest, of a run that `folder` calls `run`; None if it is not found."""
    for place in _places(Path(run), folder):
        for checkpoint in (folder_of(place, step), place):
            manifest = checkpoint / store.MANIFEST
            if manifest.is_file() and store.digest_file(manifest).startswith(digest):
                return checkpoint
    return None


def run_of(folder: Path) -> Path:
    """The run folder of a checkpoint; a run, and a checkpoint that lies alone, stand for themselves."""
    above = folder.parent.parent
    return above if is_run(above) and not is_run(folder) else folder


def _places(path: Path, folder: Path) -> Iterator[Path]:
    """Where to look: as it is written, at its end behind each folder above the run, and among the run's neighbours."""
    run = run_of(folder).absolute()
    parts = path.parts[1:] if path.is_absolute() else path.parts
    looked = dict.fromkeys([path])
    for first in range(len(parts)):
        looked |= dict.fromkeys(above.joinpath(*parts[first:]) for above in run.parents)
    yield from (place for place in looked if place.is_dir())
    if run.parent.is_dir():
        yield from (place for place in sorted(run.parent.iterdir()) if place not in looked and place.is_dir())


def _models(place: Path) -> list[Path]:
    return [place] if is_there(place / MODEL) else all_checkpoints(place)[::-1]


def _named(checkpoint: Path) -> str:
    run = run_of(checkpoint)
    return shown(checkpoint) if run == checkpoint else f"{shown(run)}@{step_of(checkpoint)}"


def shown(path: Path) -> str:
    """An absolute path as it is shown: relative to where one is, if it is below."""
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()
