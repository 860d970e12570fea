"""What a command prepares before there is anything to count: the phases that the library has open."""

import time
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType

from thetahat.core.plain import duration
from thetahat.core.work.phases import Phase, current

_LOOK = 0.25  # seconds between two looks
_PATIENCE = 1.0  # seconds in which a phase may end without having been shown


class Watch:
    """Looks in a thread of its own which phase is open, and calls `show` with it; with None where there is none."""

    def __init__(self, show: Callable[[Phase | None], None]) -> None:
        self._show, self._ended = show, Event()
        self._thread = Thread(target=self._look, name="phases", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        since, is_shown = time.monotonic(), False
        while not self._ended.wait(_LOOK):
            phase, now = current(), time.monotonic()
            if phase is None:
                since = now
            if is_shown or now - since >= _PATIENCE:
                self._show(phase)
            is_shown = phase is not None and now - since >= _PATIENCE
        self._show(None)


def counted(phase: Phase) -> str:
    """How much of it is done."""
    if phase.total is None:
        return ""
    digits = 0 if phase.total >= 1e7 else 1
    return f"{phase.done / 1e6:,.{digits}f}/{phase.total / 1e6:,.{digits}f} MB"


def time_of(phase: Phase, rate: float) -> str:
    """The time left at so many a second, or that it took so far."""
    if phase.total is None or not rate:
        return f"{duration(time.monotonic() - phase.started)} so far"
    return f"{duration((phase.total - phase.done) / rate)} left"
