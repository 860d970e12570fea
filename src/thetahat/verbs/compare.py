"""Which of two models makes the same text more likely.

Two ledgers are compared without a model; torch is imported only where something must be scored.
"""

from collections.abc import Sequence
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

from thetahat.core.errors import ConfigError, DataError
from thetahat.data.config import ReadOptions, data_of, is_of_reading
from thetahat.data.read.record import Record
from thetahat.data.read.texts import read_records
from thetahat.ledger.compare import Case, Comparison, compare_ledgers
from thetahat.ledger.ledger import read_ledger
from thetahat.ledger.pairing import Scored

if TYPE_CHECKING:
    from thetahat.run.folder.stored import StoredModel
    from thetahat.verbs.load import Loaded

logger = getLogger("thetahat")


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
    held out. `overrides` change how models are asked, as in `load`; unless they name a context, two models read no more
    positions at once than the one that reads fewer. With a `lower_bound`, models of two tokenizers are
    compared also where one of them loses some of the text.
    """
    ledgers = [model for model in (a, b) if _is_ledger(model)]
    if len(ledgers) == 2 and (strange := [pair for pair in overrides if not is_of_reading(pair)]):
        allowed = "data.split_on=TEXT, data.columns.NAME=COLUMN, data.trees, data.preference"
        raise ConfigError(f"{strange[0]} changes nothing: both ledgers are written", allowed=allowed)
    (ours, read_a), (theirs, read_b) = _scored_both(a, b, data, overrides)
    compared = compare_ledgers(ours, theirs, top, lower_bound=lower_bound)
    if not data:
        return compared
    given = data_of([pair for pair in overrides if is_of_reading(pair)])
    return _with_texts(compared, data, given.read_options.or_as(read_a).or_as(read_b))


def _scored_both(
    a: "Loaded | str | Path", b: "Loaded | str | Path", data: Sequence[str], overrides: Sequence[str]
) -> list[tuple[Scored, ReadOptions]]:
    """Both ledgers, and how their texts were read; two models by name read no more than the one that reads fewer."""
    if any(not isinstance(model, str | Path) or _is_ledger(model) for model in (a, b)):
        return [_scored(model, data, overrides) for model in (a, b)]
    from thetahat.run.folder.stored import find_model

    found = {str(model): find_model(str(model)) for model in (a, b)}
    contexts = {stored.card.context for stored in found.values()}
    asked = [*overrides]
    if len(contexts) > 1 and not any(pair.startswith(("context=", "data.context=")) for pair in overrides):
        logger.info("both read at most %s positions at once, as the one does that reads fewer", f"{min(contexts):,}")
        asked.append(f"context={min(contexts)}")
    return [_scored_by(found[str(model)], str(model), data, asked) for model in (a, b)]


def _is_ledger(model: "Loaded | str | Path") -> bool:
    return isinstance(model, str | Path) and (Path(model).is_file() or Path(model).suffix == ".parquet")


def _scored(model: "Loaded | str | Path", data: Sequence[str], overrides: Sequence[str]) -> tuple[Scored, ReadOptions]:
    """The ledger, and how the text was read that was scored for it."""
    if not isinstance(model, str | Path):
        return _scored_by(model, str(model.folder), data, overrides)
    if _is_ledger(model):
        return Scored(str(model), *read_ledger(Path(model))), ReadOptions()
    return _scored_by(str(model), str(model), data, overrides)


def _scored_by(
    model: "Loaded | StoredModel | str", name: str, data: Sequence[str], overrides: Sequence[str]
) -> tuple[Scored, ReadOptions]:
    from thetahat.verbs.load import Loaded, load
    from thetahat.verbs.score import score

    loaded = model if isinstance(model, Loaded) else load(model, tuple(overrides))
    found = score(loaded, data)
    return Scored(name, found.rows, found.metadata), loaded.card.read_options


def _with_texts(compared: Comparison, data: Sequence[str], read: ReadOptions) -> Comparison:
    """The comparison with the texts of the largest gains and losses; raises DataError if they have changed since."""
    cases = [*compared.gains, *compared.losses]
    ids, digests = {case.id for case in cases}, {case.digest for case in cases if case.digest}
    by_id: dict[str, Record] = {}
    by_digest: dict[str, Record] = {}  # by which a text is found under whatever name it has in this data
    for record in read_records(data, read):
        if record.id in ids:
            by_id[record.id] = record
        if (digest := record.digest.hex()) in digests:
            by_digest[digest] = record
    found = {case.id: by_digest.get(case.digest) or by_id.get(case.id) for case in cases}
    if lacking := sorted(id for id, record in found.items() if record is None):
        raise DataError(
            f"{', '.join(data)} has no record {', '.join(lacking[:3])}, which the ledgers have",
            cure="name the data that was scored, with its data.split_on and data.columns, or none",
        )
    records = {id: record for id, record in found.items() if record is not None}
    if other := [case.id for case in cases if case.digest not in {"", records[case.id].digest.hex()}]:
        raise DataError(
            f"{', '.join(data)} holds another text than the one that was scored: {', '.join(other[:3])}",
            cure="bring the text back as it was, or score it anew: thetahat score MODEL DATA --out ledger.parquet",
        )

    def with_text(case: Case) -> Case:
        return replace(case, text=_shown(records[case.id]))

    return replace(compared, gains=list(map(with_text, compared.gains)), losses=list(map(with_text, compared.losses)))


def _shown(record: Record) -> str:
    return record.text if record.prompt is None else f"{record.prompt}\n→ {record.text}"
