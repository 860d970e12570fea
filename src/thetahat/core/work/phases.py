"""What is being done now, and how far that is: the library says it here, and whoever shows it looks here."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import final

_OPEN: "list[Phase]" = []
_LOCK = Lock()


@final
@dataclass(slots=True, eq=False)
class Phase:
    """Some work whose end may take a while to come."""

    name: str
    total: int | None = None  # bytes; None: not known
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def advance(self, number: int) -> None:
        """Takes account of bytes that are done; threads may call it at once."""
        with _LOCK:
            self.done += number


@contextmanager
def phase(name: str, total: int | None = None) -> Generator[Phase]:
    """Within it this is what is being done; of phases in each other the inner one is shown."""
    one = Phase(name, total)
    _OPEN.append(one)
    try:
        yield one
    finally:
        _OPEN.remove(one)


def current() -> Phase | None:
    """The innermost phase that has begun and not ended."""
    return next(reversed(_OPEN.copy()), None)
