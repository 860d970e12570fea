"""The process beside a run that its trackers live in: whatever they do or print, training neither waits nor ends."""

import os
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path

from thetahat.run.config import RunConfig
from thetahat.run.track.follow import FOLDER

FINISHED = "finished"
PATIENCE = 60.0  # seconds for which a run that ends waits for its trackers
LOG = "track.log"
logger = getLogger("thetahat")


@contextmanager
def tracking(is_first: bool, config: RunConfig, folder: Path, step: int) -> Generator["Ending"]:
    """Shows a run in its trackers from `step` on, by the first rank, as long as the block lasts.

    The process reads the files of the run. It ends when its input is closed, so also when this process is killed, and
    hands over what is there then.
    """
    ending = Ending()
    if not (is_first and config.track):
        yield ending
        return
    process = _begin(folder, step)
    if process is None:
        yield ending
        return
    listener = threading.Thread(target=_listen, args=(process.stdout or (),), daemon=True)
    listener.start()
    try:
        yield ending
    finally:
        _end(process, ending)
        listener.join(1.0)
        if process.stdout and not listener.is_alive():
            process.stdout.close()


class Ending:
    """What a run came to."""

    is_finished = False


def _begin(folder: Path, step: int) -> "subprocess.Popen[str] | None":
    (folder / FOLDER).mkdir(exist_ok=True)
    command = [sys.executable, "-P", "-m", "thetahat", "track", str(folder.absolute()), "--attached", str(step)]
    try:
        with (folder / FOLDER / LOG).open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is the run's
                env={**os.environ, "RANK": "0"},
            )
    except OSError as error:
        logger.warning("track: its process cannot be started, and the run goes on without it: %s", error)
        return None


def _listen(said: Iterable[str]) -> None:
    for line in said:
        text = line.rstrip("\n")
        (logger.warning if text.startswith("warning: ") else logger.info)("track: %s", text.removeprefix("warning: "))


def _end(process: "subprocess.Popen[str]", ending: Ending) -> None:
    with suppress(OSError):  # it has ended before
        if process.stdin:
            if ending.is_finished:
                process.stdin.write(f"{FINISHED}\n")
            process.stdin.close()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        logger.warning("track: still handing over, and goes on by itself (process %d)", process.pid)
