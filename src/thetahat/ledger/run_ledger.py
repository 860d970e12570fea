"""The ledger of a training run: Parquet files, one after the other, which together are one table."""

import re
from itertools import pairwise
from logging import getLogger
from pathlib import Path

import pyarrow as pa

from thetahat.core.errors import DataError
from thetahat.ledger.ledger import SCHEMA, Table, read_columns

LEDGER = "ledger"
_NAME = re.compile(r"step-(\d{8,})-(\d{8,})\.parquet")

logger = getLogger("thetahat")


def part_name(first: int, last: int) -> str:
    """The file with the rows of these steps, both included."""
    return f"step-{first:08d}-{last:08d}.parquet"


def last_step(name: str) -> int:
    """The last step of a part file."""
    return _steps(name)[1]


def _steps(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def part_files(run: Path) -> list[Path]:
    """The part files of a run, in the order of their steps."""
    paths = (run / LEDGER).glob("step-*.parquet")
    return sorted((path for path in paths if _NAME.fullmatch(path.name)), key=lambda path: _steps(path.name))


def read_run_ledger(run: Path, begun: int = 0, lost: list[str] | None = None) -> Table:
    """All rows of a run's ledger as one Arrow table; each file is verified to the bit, and lost steps are logged.

    Each part of a record has one row a step, however often the run was interrupted. The rows begin behind step `begun`.
    With `lost`, a file that is damaged is left out, and what is wrong with it and with the steps is added to that list.
    """
    paths = part_files(run)
    if not paths:
        raise DataError(f"{run} has no ledger", cure="a run folder that was trained without ledger.every=0")
    steps = [(begun, begun), *(_steps(path.name) for path in paths)]
    for (_, before), (first, _) in pairwise(steps):
        if first <= before:
            raise DataError(f"{run / LEDGER} holds step {first} twice", cure="start the run again: it tidies up")
        if first > before + 1:
            told = f"{run / LEDGER}: the rows of steps {before + 1} to {first - 1} are missing"
            logger.warning("%s", told) if lost is None else lost.append(told)
    tables = _tables(paths, lost)
    names = SCHEMA.names if any(len(table.schema) == len(SCHEMA) for table in tables) else tables[0].column_names
    return pa.concat_tables([table.select(names).replace_schema_metadata(None) for table in tables])


def _tables(paths: list[Path], lost: list[str] | None) -> list[Table]:
    tables = list[Table]()
    for path in paths:
        try:
            tables.append(read_columns(path)[0])
        except DataError as error:
            if lost is None:
                raise
            lost.append(error.what)
    if not tables:
        raise DataError(f"no file of {paths[0].parent} can be read")
    return tables
