"""Whether two ledgers are of the same data, and which row of one goes with which row of the other."""

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from logging import getLogger
from typing import NamedTuple

from thetahat.core.errors import DataError, NonFiniteError
from thetahat.core.plain import counted
from thetahat.ledger.ledger import LedgerRow
from thetahat.ledger.policy import Policy, read_policy, same_question

_SCORE = "score both models anew on the same text: thetahat score MODEL DATA --out ledger.parquet"
_SHOWN = 3
logger = getLogger("thetahat")
_TEXTUAL = {
    "digest": "hold another text",
    "num_bytes": "count other bytes",
}
"""Fields that depend on the text alone, with what is said of two rows that differ in one."""

CHOICES = "choices"  # the value of `rows` in the metadata of a ledger of questions
WHOLE = "whole"  # the value of `read` in the metadata of a ledger where every target could see all before it
MOST_ROUNDING = 1e-4  # nats a token: rounding may make a log-probability of 0 positive by as much


class Scored(NamedTuple):
    """The rows of a ledger with its metadata."""

    name: str
    rows: Sequence[LedgerRow]
    metadata: Mapping[str, str]  # of which `policy`, `read` and `tokenizer_sha256` are used


class Pair(NamedTuple):
    """The rows of one part of a record, under A and under B."""

    a: LedgerRow
    b: LedgerRow

    @property
    def difference(self) -> float:
        """By how many nats B makes it more likely."""
        return self.b.log_prob - self.a.log_prob


def pair_rows(a: Scored, b: Scored) -> list[Pair]:
    """The rows of A and B with the same id and part, in the order of A.

    Where the ids differ since the files had other names, rows of the same text (by its digest) and part go together.
    Raises DataError unless both hold the same parts of the same records (ids, parts, digests of the text, bytes, and
    with one tokenizer tokens; documents and sources, whatever they are called), scored by one policy, and
    NonFiniteError where a log-probability is no number. Where a digest is empty, ids and
    bytes alone say that a text is the same.
    """
    if CHOICES in {scored.metadata.get("rows") for scored in (a, b)}:
        raise DataError(
            "rows are right and wrong choices, of which none should just be likelier",
            cure="compare the accuracies, and their intervals, that thetahat choose prints",
        )
    ours, theirs = _by_key(a), _by_key(b)
    if is_renamed := ours.keys() != theirs.keys() and _are_of_same_texts(a.rows, b.rows):
        theirs = _by_text(a.rows, b.rows)
        logger.warning(
            "%s and %s have other ids (%s; %s): rows of the same text go together",
            *(a.name, b.name, _names(a.rows), _names(b.rows)),
        )
    _refuse(f"only {a.name} has", [ours[key] for key in ours if key not in theirs])
    _refuse(f"only {b.name} has", [theirs[key] for key in theirs if key not in ours])
    pairs = [Pair(row, theirs[key]) for key, row in ours.items()]
    for name, what in _TEXTUAL.items():
        _refuse(f"in {a.name} and {b.name} {what}:", [pair.a for pair in pairs if _differs(pair, name)])
    _refuse(f"in {a.name} and {b.name} belong to another document:", _other_groups(pairs, "document"))
    others = _other_groups(pairs, "source") if is_renamed else [pair.a for pair in pairs if _differs(pair, "source")]
    _refuse(f"in {a.name} and {b.name} come from another source:", others)
    if is_one_tokenizer(a, b):
        _refuse("one tokenizer, but other numbers of scored tokens:", [p.a for p in pairs if _differs(p, "num_tokens")])
        _refuse("other labels:", [pair.a for pair in pairs if _differs(pair, "label")])
    _check_policies(a, b)
    for scored in (a, b):
        if sick := [row for row in scored.rows if not math.isfinite(row.log_prob)]:
            raise NonFiniteError(f"{scored.name} has {_count(sick)} whose likelihood is not finite: {_names(sick)}")
        if odd := [row for row in scored.rows if row.log_prob > MOST_ROUNDING * row.num_tokens]:
            raise DataError(
                f"{scored.name} has {_count(odd)} whose log-probability is positive, which no probability has: "
                f"{_names(odd)}",
                cure=_SCORE,
            )
    return pairs


def is_of_labels(scored: Scored) -> bool:
    """Whether its rows are of a classifier, whose targets are labels, whatever its tokens are."""
    return any(row.predicted is not None for row in scored.rows)


def is_one_tokenizer(a: Scored, b: Scored) -> bool:
    """Whether both are known to have the same targets: tokens of the same tokenizer, or labels."""
    if is_of_labels(a) and is_of_labels(b):
        return True
    ours, theirs = (scored.metadata.get("tokenizer_sha256", "") for scored in (a, b))
    return ours == theirs != ""


def _by_key(scored: Scored) -> dict[tuple[str, str], LedgerRow]:
    rows = {(row.id, row.part): row for row in scored.rows}
    if not rows:
        raise DataError(f"{scored.name} has no rows", cure=_SCORE)
    if len(rows) < len(scored.rows):
        again = [row for row in scored.rows if rows[row.id, row.part] is not row]
        raise DataError(f"{scored.name} has several rows of one id and part: {_names(again)}", cure=_SCORE)
    return rows


def _are_of_same_texts(ours: Sequence[LedgerRow], theirs: Sequence[LedgerRow]) -> bool:
    """Whether both have the same parts of the same texts, equally often; no if a digest is missing."""
    known = all(row.digest for row in (*ours, *theirs))
    a, b = (Counter((row.digest, row.part) for row in rows) for rows in (ours, theirs))
    return known and a == b


def _by_text(ours: Iterable[LedgerRow], theirs: Iterable[LedgerRow]) -> dict[tuple[str, str], LedgerRow]:
    """Their rows by our ids and parts: the first row of a text goes with the first of the same text, and so on."""
    waiting: dict[tuple[str, str], deque[LedgerRow]] = {}
    for row in theirs:
        waiting.setdefault((row.digest, row.part), deque()).append(row)
    return {(row.id, row.part): waiting[row.digest, row.part].popleft() for row in ours}


def _other_groups(pairs: Sequence[Pair], name: str) -> list[LedgerRow]:
    """The rows that A and B group differently by `name`, whatever the groups are called."""
    to_b, to_a = dict[str, str](), dict[str, str]()
    names = [(getattr(pair.a, name), getattr(pair.b, name)) for pair in pairs]
    agree = [
        to_b.setdefault(ours, theirs) == theirs and to_a.setdefault(theirs, ours) == ours for ours, theirs in names
    ]
    return [pair.a for pair, agrees in zip(pairs, agree, strict=True) if not agrees]


def _differs(pair: Pair, name: str) -> bool:
    ours, theirs = getattr(pair.a, name), getattr(pair.b, name)
    return ours != theirs and (name != "digest" or bool(ours and theirs))


def _refuse(what: str, rows: Sequence[LedgerRow]) -> None:
    if rows:
        raise DataError(f"A and B are not of the same data: {what} {_count(rows)}: {_names(rows)}", cure=_SCORE)


def _check_policies(a: Scored, b: Scored) -> None:
    ours, theirs = (read_policy(scored.metadata, scored.name) for scored in (a, b))
    if not same_question(ours, theirs, is_whole=_is_whole(a) and _is_whole(b)):
        said = "; ".join(f"{scored.name}: {said_policy(scored) or '(not said)'}" for scored in (a, b))
        raise DataError(
            f"A and B were scored in different ways: {said}",
            allowed="another dtype; another context and stride where both read every document whole",
            cure=_one_context(ours, theirs) or _SCORE,
        )
    if ours and ours.factorization.is_sample and not is_one_tokenizer(a, b):
        raise DataError(
            "spans are made of tokens, so with two tokenizers A and B were scored on different text",
            allowed="models of spans with one tokenizer",
        )


def _one_context(ours: Policy | None, theirs: Policy | None) -> str:
    """What to type where two models read so many positions at once that long documents are cut at other places."""
    if ours is None or theirs is None or ours.context == theirs.context:
        return ""
    return f"context={min(ours.context, theirs.context)} behind the data, for both"


def said_policy(scored: Scored) -> str:
    """How a ledger was scored, in words; empty where it does not say."""
    policy = read_policy(scored.metadata, scored.name)
    return policy.words() if policy else ""


def _is_whole(scored: Scored) -> bool:
    """Whether every target could see all of its record that comes before it."""
    return scored.metadata.get("read") == WHOLE


def _count(rows: Sequence[LedgerRow]) -> str:
    return counted(len(rows), "row")


def _names(rows: Iterable[LedgerRow]) -> str:
    """The ids of the first few, with their parts where these are not whole documents."""
    names = [row.id if row.part == "document" else f"{row.id} ({row.part})" for row in rows]
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
