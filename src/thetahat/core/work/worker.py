"""A process of `core.work.pool`: takes tasks from stdin, JSON a line, and writes to stdout what comes of them."""

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from queue import SimpleQueue
from threading import Thread
from typing import Any, BinaryIO, final

from thetahat.core.errors import ThetahatError
from thetahat.core.work.pool import named


def main(function: str) -> None:
    """Does tasks until there are no more; when who gave them is gone, it ends at once, in the middle of one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who gives the tasks
    said = _Said(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # what a library prints is no answer
    logging.getLogger("thetahat").handlers = [said]
    logging.getLogger("thetahat").setLevel(logging.INFO)
    tasks: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_read, args=(tasks,), daemon=True).start()
    while True:
        task = json.loads(tasks.get())
        try:
            result = named(function)(task, lambda number: said.say(kind="told", number=number))
            said.say(kind="result", result=result)
        except ThetahatError as error:
            told = {name: getattr(error, name) for name in ("what", "allowed", "cure")}
            said.say(kind="error", **{"class": type(error).__name__}, **told)
        except Exception:  # noqa: BLE001 - said where it can be seen
            said.say(kind="bug", traceback=traceback.format_exc())


def _read(tasks: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        tasks.put(line)
    os.kill(os.getpid(), signal.SIGKILL)


@final
class _Said(logging.Handler):
    """Writes lines, those of the log among them."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream

    def say(self, **line: Any) -> None:
        self._stream.write(json.dumps(line).encode() + b"\n")
        self._stream.flush()

    def emit(self, record: logging.LogRecord) -> None:
        told: Mapping[str, Any] = {"level": record.levelno, "line": record.getMessage()}
        self.say(kind="log", **told)


if __name__ == "__main__":
    main(sys.argv[1])
