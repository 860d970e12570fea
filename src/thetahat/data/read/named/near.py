"""Names near one that is missing."""

import difflib
import os
from itertools import islice, pairwise
from pathlib import Path
from shlex import quote

ALIKE = 0.7  # of two names, from which on one may be a misspelling of the other
_MOST = 4096  # names of a folder that are looked at
_SHOWN = 3


def near_places(spec: str) -> list[str]:
    """Files and folders that may be meant by a name that is not there, the likeliest first.

    They have the name in a folder beside, or one like it.
    Only the first part of the path that is missing is taken to be misspelt; where the rest is there behind the right
    one, it is named with it.
    """
    path = Path(spec)
    parents = [path, *path.parents]
    missing, above = next(((part, up) for part, up in pairwise(parents) if up.is_dir()), (path, Path()))
    names = _names(above)
    alike = difflib.get_close_matches(missing.name, names, n=_MOST, cutoff=ALIKE)
    near = [name for name in alike if _stems_are_alike(missing.name, name)][:_SHOWN]
    rest = path.relative_to(missing)
    whole = [above / name / rest for name in near if (above / name / rest).exists()]
    whole = whole or [above / name for name in near]
    elsewhere = [above / name / path.relative_to(above) for name in names]
    there = [one for one in elsewhere if one.exists()]
    return [str(one) for one in dict.fromkeys((*there, *whole))][:_SHOWN]


def _stems_are_alike(a: str, b: str) -> bool:
    """Endings are alike in many names, and say little."""
    ours, theirs = (name.partition(".")[0].casefold() for name in (a, b))
    return difflib.SequenceMatcher(None, ours, theirs).ratio() >= ALIKE


def did_you_mean(spec: str) -> str:
    """The same as what to type; empty where nothing is near."""
    return " or ".join(map(quote, near_places(spec)))


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in islice(entries, _MOST) if not entry.name.startswith("."))
    except OSError:
        return []
