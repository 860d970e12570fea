"""A run, as its folder tells it, in the trackers that people use."""

import select
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast, get_args

from thetahat.core import store
from thetahat.core.errors import ConfigError, FolderError, ModelError
from thetahat.run.config import Tracker
from thetahat.run.folder.files import CONFIG, is_run
from thetahat.run.track.child import FINISHED
from thetahat.run.track.follow import FOLDER, Follower
from thetahat.run.track.sink import check_installed

ALL = 2**62  # no step was made anew
PAUSE = 1.0  # seconds between two looks
SETTLED = 10.0  # seconds between two times that trackers write what they have
PREDECESSOR = 120.0  # seconds for the process of a run that was killed to hand over the rest


def track(run: str | Path, to: Sequence[str] = (), tells: Callable[[str], None] = print) -> None:
    """Brings a run into trackers: those of its config, or `to` (tensorboard, wandb, trackio, mlflow).

    What a tracker has already is not handed over again. `tells` gets a line a tracker: how to look at it, or what
    failed. Raises ConfigError where a library is missing, FolderError while a process follows the run.
    """
    folder = Path(run)
    names = _names(folder, to)
    with store.holding(folder / FOLDER):
        Follower(folder, names, ALL, tells).end(is_finished=True)


def _names(folder: Path, to: Sequence[str]) -> tuple[Tracker, ...]:
    if not is_run(folder):
        what = "a folder that thetahat train made"
        raise ModelError(f"{folder} is no run folder", allowed=what, cure="thetahat runs")
    text = (folder / CONFIG).read_text(encoding="utf-8")
    names = tuple(dict.fromkeys(to or tomllib.loads(text).get("track", ())))
    known = get_args(Tracker)
    if not names:
        raise ConfigError(f"the config of {folder} names no tracker", cure=f"--to {', --to '.join(known)}")
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"--to {unknown[0]} is no tracker", allowed=", ".join(known))
    found = cast("tuple[Tracker, ...]", names)
    check_installed(found)
    return found


def attend(run: Path, from_step: int, tells: Callable[[str], None]) -> None:
    """Follows a run that trains, until standard input ends, and then to the end of what is there."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the run's end is its own
    names = _names(run, ())
    _wait_for_predecessor(run)
    with store.holding(run / FOLDER):
        follower = Follower(run, names, from_step, tells)
        said, settled = "", time.monotonic()
        while (heard := _heard(PAUSE)) != "":
            said += heard or ""
            if follower.follow() and time.monotonic() - settled >= SETTLED:
                follower.settle()
                settled = time.monotonic()
        follower.end(is_finished=FINISHED in said)


def _heard(seconds: float) -> str | None:
    """A line of standard input within so many seconds; None: none came, empty: it has ended."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return sys.stdin.readline() if ready else None


def _wait_for_predecessor(run: Path) -> None:
    ends = time.monotonic() + PREDECESSOR
    while store.is_held(run / FOLDER):
        if time.monotonic() > ends:
            raise FolderError(f"{run / FOLDER} is still held by the process of an earlier start")
        time.sleep(0.1)
