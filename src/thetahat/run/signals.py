"""Ctrl-C and SIGTERM ask the loop to save and stop; asked twice, the process ends at once."""

import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import final

from thetahat.core.errors import ThetahatError


class Interrupted(ThetahatError):
    """The user or the machine asked to stop; the exit code is 128 + the signal's number."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(what, cure="start the same command again to go on")
        self.exit_code = 128 + number  # pyright: ignore[reportAttributeAccessIssue]


@final
class Stop:
    """Whether somebody asked."""

    number: int = 0
    since: float = 0.0

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The signal handler; a repeat within a second is the same wish, passed on by both terminal and launcher."""
        if not self.number:
            self.number, self.since = number, time.monotonic()
        elif time.monotonic() - self.since > 1:
            os._exit(128 + number)

    def __bool__(self) -> bool:
        return bool(self.number)


@contextmanager
def listening() -> Generator[Stop]:
    """Catches both signals while the loop runs, and gives them back afterwards."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
