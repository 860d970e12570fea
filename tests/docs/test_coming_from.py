"""What a page says that others' options are called here is what the command line says of a mistyped key."""

import re
from pathlib import Path

from thetahat.cli.names import MEANT

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"


def rows():
    """Every name of another trainer that the command line knows, with what the page says."""
    for line in re.findall(r"^\|([^|]*)\|([^|]*)\|[^|]*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        theirs = [re.split(r"[=\s(]", code)[0] for code in re.findall(r"`([^`]*)`", line[0])]
        yield from ((name, line[1].strip()) for name in theirs if name in MEANT)


def agree(ours, hint):
    """Whether a key of ours is in both, or both have nothing to set."""
    keys = [re.split(r"[=\s]|\.NAME", code)[0].strip(".*") for code in re.findall(r"`([^`]*)`", ours)]
    return any(key in hint for key in keys if key != "thetahat") or ours in hint or hint.startswith("nothing")


def test_the_page_and_the_hints_agree():
    found = list(rows())
    assert len(found) > 30
    assert [(name, ours, MEANT[name]) for name, ours in found if not agree(ours, MEANT[name])] == []
