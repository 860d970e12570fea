"""What becomes of records that cannot be used: all of them are named, so that one pass over the data mends it."""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import getLogger
from typing import Any, TypeVar, final

from thetahat.core import store
from thetahat.core.errors import DataError, ThetahatError
from thetahat.data.config import OnBadRecord
from thetahat.data.read.cache import default_cache

_NUMBER = re.compile(r"\d[\d,.]*|0x[0-9a-f]+")  # in what is said of one record alone
_OF_ALL = ("allowed", "cure")  # that an error may have beside what is wrong
SHOWN = 10  # of the records that are named; a file has all of them
logger = getLogger("thetahat")
Some = TypeVar("Some")


@final
class UnusableError(DataError):
    """Records that cannot be used, each with its own error."""

    def __init__(self, what: str, *, allowed: str, cure: str, errors: Sequence[DataError]) -> None:
        super().__init__(what, allowed=allowed, cure=cure)
        self.errors = tuple(errors)


@final
class TooLongError(DataError):
    """A record of which more must be read at once than a context holds: `needed` is the value of `key` that would."""

    def __init__(self, what: str, *, key: str, needed: int, others: str) -> None:
        self.key, self.needed, self.others = key, needed, others
        super().__init__(what, cure=_longer([self]))


def _told(error: DataError) -> dict[str, Any]:
    """What makes the error once more."""
    is_long = isinstance(error, TooLongError)
    return {name: getattr(error, name) for name in ("what", *(("key", "needed", "others") if is_long else _OF_ALL))}


def _longer(errors: Sequence[TooLongError]) -> str:
    """What holds all of these, or else lets a part be read."""
    first, needed = errors[0], max(error.needed for error in errors)
    return f"{first.key}={needed}, which holds {'it' if len(errors) == 1 else 'all'}; or {first.others}"


@final
class BadRecords:
    """Takes the errors of records, as `on_error` of a reader, and says at the end of the data what becomes of them."""

    def __init__(self, policy: OnBadRecord, cure: str = "") -> None:
        self._policy, self._cure = policy, cure  # the cure where data.on_bad_record=skip is none
        self._errors: list[DataError] = []

    def __call__(self, error: DataError) -> None:
        """Keeps account of one record."""
        self._errors.append(error)

    def __len__(self) -> int:
        return len(self._errors)

    @property
    def lines(self) -> list[str]:
        """Of each record its file, line and what is wrong with it."""
        return [str(error).split("\n")[0] for error in self._errors]

    def told(self) -> list[dict[str, Any]]:
        """The errors as JSON, which `take` takes."""
        return [_told(error) for error in self._errors]

    def take(self, told: Iterable[Mapping[str, Any]]) -> None:
        """Keeps account of errors that another has found; each is of the class that it was there."""
        self._errors += (TooLongError(**error) if "needed" in error else DataError(**error) for error in told)

    def settle(self) -> None:
        """Raises DataError if there was one and none may be: of one record its own, of several with a list.

        What is allowed of several records is that of each of them, or is left unsaid; what to type is that of most.
        """
        if not self._errors or self._policy == "skip":
            return
        first = self._errors[0]
        allowed = {error.allowed for error in self._errors}
        (cure, count), *_ = Counter(error.cure for error in self._errors).most_common()
        cure = cure if 2 * count > len(self) else ""
        long = [error for error in self._errors if isinstance(error, TooLongError)]
        if len(long) == len(self) and len({(error.key, error.others) for error in long}) == 1:
            cure = _longer(long)
        what = first.what if len(self) == 1 else _listed(f"{len(self):,} records cannot be used:", self.lines)
        raise UnusableError(
            what,
            allowed=first.allowed if len(allowed) == 1 else "",
            cure=self._cure_beside(cure),
            errors=self._errors,
        )

    def _cure_beside(self, own: str) -> str:
        """One line of cures: that of the records, and that of the data."""
        them = "it" if len(self) == 1 else "them"
        if self._cure:
            return f"{own}; or {self._cure}" if own else self._cure
        skip = f"data.on_bad_record=skip to leave {them} out and count {them}"
        return f"{own}; or {skip}" if own else f"mend {them}, or {skip}"


def settle_together(parts: Iterable[Callable[[], Some]]) -> list[Some]:
    """What each part makes of its data; raises one error for the records of all parts that cannot be used."""
    made: list[Some] = []
    bad = BadRecords("error")
    for part in parts:
        try:
            made.append(part())
        except UnusableError as unusable:
            for error in unusable.errors:
                bad(error)
    bad.settle()
    return made


@functools.cache
def tell_skipped(*lines: str) -> None:
    """Says which records are left out, once, however often they are read."""
    if lines:
        count = f"{len(lines):,} record{'s' * (len(lines) > 1)} left out by data.on_bad_record=skip:"
        logger.warning("%s", _listed(count, lines))


def _listed(what: str, lines: Sequence[str]) -> str:
    """All of a few; of many the first of each kind, with how many are like it, and a file that has all."""
    if len(lines) <= SHOWN:
        return what + "".join(f"\n    {line}" for line in lines)
    kinds: dict[str, list[str]] = {}
    for line in lines:
        kinds.setdefault(_NUMBER.sub("0", line), []).append(line)
    commonest = sorted(kinds.values(), key=len, reverse=True)
    more = [f" (and {len(some) - 1:,} more like it)" if len(some) > 1 else "" for some in commonest]
    shown = "".join(f"\n    {some[0]}{rest}" for some, rest in zip(commonest[:SHOWN], more, strict=False))
    text = "".join(f"{line}\n" for line in lines)
    path = default_cache() / "bad-records" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_text(path, text)
    except (OSError, ThetahatError):
        return f"{what}{shown}"
    return f"{what}{shown}\n    all of them in {path}"
