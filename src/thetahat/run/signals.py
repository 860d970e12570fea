"""Ctrl-C, SIGTERM and SIGHUP (a lost connection) save and stop; a second one ends the process at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import FrameType
from typing import final

from thetahat.core.errors import ThetahatError


class Interrupted(ThetahatError):
    """A signal stopped the command; the exit code is 128 + its number."""

    def __init__(self, number: int, what: str, cure: str = "start the same command again to go on") -> None:
        super().__init__(what, cure=cure)
        self.exit_code = 128 + number  # pyright: ignore[reportAttributeAccessIssue]


STOPPING = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


@final
class Stop:
    """Whether a signal came, and which."""

    number: int = 0
    since: float = 0.0

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. A repeat within a second is the same signal, from the terminal and from the launcher."""
        if not self.number:
            self.number, self.since = number, time.monotonic()
        elif time.monotonic() - self.since > 1:
            os._exit(128 + number)

    def __bool__(self) -> bool:
        return bool(self.number)


@contextmanager
def listening() -> Generator[Stop]:
    """Handles the signals inside the block; SIGHUP stays ignored if it was, as under nohup."""
    stop = Stop()
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set[signal.Signals]()
    with _handling(stop.ask, [number for number in STOPPING if number not in ignored]):
        yield stop


@contextmanager
def interrupting(what: str, cure: str) -> Generator[None]:
    """Signals raise KeyboardInterrupt inside the block, so that its own blocks can save; outside it is Interrupted."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        is_repeated = bool(stop)
        stop.ask(number, frame)
        if not is_repeated:
            raise KeyboardInterrupt

    with _handling(ask, [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]):
        try:
            yield
        except KeyboardInterrupt as error:
            raise Interrupted(stop.number or signal.SIGINT, what, cure) from error


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None], numbers: Iterable[int]) -> Generator[None]:
    """Sets the handler inside the block; in other threads than the main one nothing can be set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier or signal.SIG_DFL)
