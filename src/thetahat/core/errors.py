"""Errors that speak to the one who can act: what came, what is allowed, what to type.

Each class carries the exit code with which the command line ends.
"""

import errno
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


class ThetahatError(ValueError):
    """Something that the user can mend."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, allowed: str = "", cure: str = "") -> None:
        self.what, self.allowed, self.cure = what, allowed, cure
        lines = [what]
        if allowed:
            lines.append(f"  allowed: {allowed}")
        if cure:
            lines.append(f"  try: {cure}")
        super().__init__("\n".join(lines))


class ConfigError(ThetahatError):
    """A command, recipe, key or value that does not exist or does not fit."""

    exit_code = 2


class DataError(ThetahatError):
    """Text that cannot be read, or that leaves nothing to predict."""

    exit_code = 3


class ModelError(ThetahatError):
    """A model or checkpoint that is missing, damaged or of another shape."""

    exit_code = 4


class DamagedError(ModelError):
    """What was published and is not what was written; a folder that cannot be read just now is a plain ModelError."""


class NonFiniteError(ThetahatError):
    """A NaN or an infinity where a number belongs; nothing was updated with it.

    `module` is where it began; empty: it is not known.
    """

    exit_code = 5

    def __init__(self, what: str, *, allowed: str = "", cure: str = "", module: str = "") -> None:
        super().__init__(what, allowed=allowed, cure=cure)
        self.module = module


class VerificationError(ThetahatError):
    """An equivalence that does not hold."""

    exit_code = 6


class FolderError(ThetahatError):
    """A folder that another process holds, or that belongs to another config."""

    exit_code = 7


class DiskFullError(ThetahatError):
    """No room to write; what was published before is untouched."""

    exit_code = 8


class OutOfMemoryError(ThetahatError):
    """No memory left, on the host or on the device."""

    exit_code = 9


class StoppedError(ThetahatError):
    """An alarm whose policy is to stop, or that took the run back too often; what was trained before it is saved."""

    exit_code = 10


class LostRankError(ThetahatError):
    """A rank that others wait for is lost, or hangs; all end, and the newest checkpoint is untouched."""

    exit_code = 11


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def naming_full_disk(path: Path) -> Generator[None]:
    """Turns "no space left", "quota exceeded" and "file too large" into one named error about `path`."""
    try:
        yield
    except Exception as error:  # not only OSError: safetensors and tokenizers raise classes of their own
        if isinstance(error, ThetahatError) or not says_full(error):
            raise
        raise DiskFullError(
            f"no space left while writing {path}",
            cure="free some space, or write elsewhere with --out DIR, and start the same command again",
        ) from error


def says_full(error: Exception) -> bool:
    """Whether a disk is full: by the error's number, or by the one in the words of a library not written in Python."""
    number = error.errno if isinstance(error, OSError) else None
    said = re.search(r"(?:os error|errno:?) (\d+)", str(error), re.IGNORECASE)
    return (int(said[1]) if number is None and said else number) in _FULL
