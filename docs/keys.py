"""Writes docs/keys.md: every key of a config, from the text beside it.

python docs/keys.py            # tests/docs fails where the page is older than the code
"""

from collections.abc import Sequence
from pathlib import Path

from thetahat.core.schema import fields, purpose, variants
from thetahat.run.config import RunConfig
from thetahat.verbs.export import ExportConfig
from thetahat.verbs.keys import CHAPTERS, REQUIRED, Key, all_keys

PAGE = Path(__file__).with_name("keys.md")
HEAD = """# Every key

What KEY=VALUE on the command line, a `config.toml` and `th.override` may set. `thetahat keys` shows the same in a
terminal: `thetahat keys data` all keys below `data`, `thetahat keys --find WORD` those that a word leads to. Generated
by `python docs/keys.py` from the text beside each key, as it is.

Defaults are those of the config; a recipe, and so `thetahat train` without a name, sets some of them
(`thetahat keys data --of quickstart` shows its values). `[]` stands for each item of a list, which is set as a whole,
`model.layers='[{distance = 128}, {}]'`, or item by item, by numbers from 0: `model.layers.0.distance=128`. Keys with †
may also be set when a trained model is asked (`thetahat score`, `compare`, `generate`, ...), where `batch_size` is
short for `evaluation.batch_size`, and `context` limits the positions that are read.
"""


TOP = fields(RunConfig)
TABLES = [name for name, hint in TOP.items() if variants(hint)]


def page() -> str:
    """The page as it should be."""
    everything = all_keys(RunConfig)
    own = [key for key in everything if key.key.partition(".")[0] not in TABLES]
    sections = {"Of the run": own}
    for table in TABLES:
        sections[f"`{table}`"] = [key for key in everything if key.key == table or key.key.startswith(f"{table}.")]
    told = [f"## {title}\n\n{table_of(rows)}" for title, rows in sections.items()]
    exported = f"## Of `thetahat export`\n\n{purpose(ExportConfig)}\n\n{table_of(all_keys(ExportConfig))}"
    return "\n".join([HEAD, *told, exported])


def table_of(rows: Sequence[Key]) -> str:
    """A row for each key."""
    lines = [f"| {' | '.join(cells(row))} |" for row in rows]
    return "\n".join(["| key | default | allowed | meaning |", "|---|---|---|---|", *lines]) + "\n"


def cells(row: Key) -> tuple[str, str, str, str]:
    """Key, default, allowed values, meaning with the chapter."""
    where = f" Where {' or '.join(map(code, row.where))}." if row.where else ""
    more = "" if row.chapter == CHAPTERS[""] else f" [More]({from_docs(row.chapter)})"
    allowed = "a table" if row.key in TABLES else cell(row.allowed)
    default = row.default if row.default in ("", REQUIRED) else code(row.default)
    return f"{code(row.key)}{' †' if row.asks else ''}", default, allowed, f"{cell(row.meaning)}{where}{more}"


def from_docs(chapter: str) -> str:
    """A page of the repository as docs/ links to it."""
    return chapter.removeprefix("docs/") if chapter.startswith("docs/") else f"../{chapter}"


def code(text: str) -> str:
    """Text that is typed."""
    return f"`{text}`".replace("|", "\\|")


def cell(text: str) -> str:
    """Text in a table, in which what looks like markup is text."""
    for found, written in (("|", "\\|"), ("<", "&lt;"), ("*", "\\*"), ("[", "\\[")):
        text = text.replace(found, written)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
