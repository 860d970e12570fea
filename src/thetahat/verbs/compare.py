"""Which of two models makes the same text more likely.

Two ledgers are compared without a model; torch is imported only where something must be scored.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from thetahat.core.config import override
from thetahat.core.errors import ConfigError, DataError
from thetahat.data.config import DataConfig
from thetahat.data.read.record import Record
from thetahat.data.read.texts import read_records
from thetahat.ledger.compare import Case, Comparison, compare_ledgers
from thetahat.ledger.ledger import read_ledger
from thetahat.ledger.pairing import Scored

if TYPE_CHECKING:
    from thetahat.verbs.load import Loaded

_SPLIT = "data.split_on="


def compare(
    a: "Loaded | str | Path",
    b: "Loaded | str | Path",
    data: Sequence[str] = (),
    *,
    overrides: Sequence[str] = (),
    top: int = 10,
    lower_bound: bool = False,
) -> Comparison:
    """B against A on the same rows, with the `top` largest gains and losses, and their text where `data` is given.

    Each is a ledger that `score` wrote, or a MODEL, which is first asked to score `data`; without data, what its run
    held out. `overrides` change how models are asked, as in `load`. With a `lower_bound`, models of two tokenizers are
    compared also where one of them loses some of the text.
    """
    ledgers = [model for model in (a, b) if _is_ledger(model)]
    if len(ledgers) == 2 and (strange := [pair for pair in overrides if not pair.startswith(_SPLIT)]):
        raise ConfigError(f"{strange[0]} changes nothing: both ledgers are written", allowed=f"{_SPLIT}TEXT")
    (ours, split_a), (theirs, split_b) = (_scored(model, data, overrides) for model in (a, b))
    compared = compare_ledgers(ours, theirs, top, lower_bound=lower_bound)
    if not data:
        return compared
    given = override(DataConfig(), [pair.removeprefix("data.") for pair in overrides if pair.startswith(_SPLIT)])
    return _with_texts(compared, data, given.separator or split_a or split_b)


def _is_ledger(model: "Loaded | str | Path") -> bool:
    return isinstance(model, str | Path) and (Path(model).is_file() or Path(model).suffix == ".parquet")


def _scored(model: "Loaded | str | Path", data: Sequence[str], overrides: Sequence[str]) -> tuple[Scored, str | None]:
    """The ledger, and what stood between the documents of a .txt that was scored for it."""
    if isinstance(model, str | Path) and _is_ledger(model):
        return Scored(str(model), *read_ledger(Path(model))), None
    from thetahat.verbs.load import load
    from thetahat.verbs.score import score

    loaded = load(str(model), tuple(overrides)) if isinstance(model, str | Path) else model
    found = score(loaded, data)
    name = str(model) if isinstance(model, str | Path) else str(loaded.folder)
    return Scored(name, found.rows, found.metadata), loaded.card.separator


def _with_texts(compared: Comparison, data: Sequence[str], split_on: str | None) -> Comparison:
    """The same, with the texts of the largest gains and losses; raises DataError where they are not those scored."""
    cases = [*compared.gains, *compared.losses]
    wanted = {case.id for case in cases}
    found = {record.id: record for record in read_records(data, split_on) if record.id in wanted}
    if lacking := sorted(wanted - found.keys()):
        raise DataError(
            f"{', '.join(data)} has no record {', '.join(lacking[:3])}, which the ledgers have",
            cure="name the data that was scored, with its data.split_on, or none",
        )
    if other := [case.id for case in cases if case.digest not in {"", found[case.id].digest.hex()}]:
        raise DataError(
            f"{', '.join(data)} holds another text than the one that was scored: {', '.join(other[:3])}",
            cure="bring the text back as it was, or score it anew: thetahat score MODEL DATA --out ledger.parquet",
        )

    def with_text(case: Case) -> Case:
        return replace(case, text=_shown(found[case.id]))

    return replace(compared, gains=list(map(with_text, compared.gains)), losses=list(map(with_text, compared.losses)))


def _shown(record: Record) -> str:
    return record.text if record.prompt is None else f"{record.prompt}\n→ {record.text}"
