"""What a run would learn from: each token with its loss weight and the reason, and the account of all records."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from msgspec.structs import replace as replace_config
from numpy.typing import NDArray

from thetahat.core.batch import Packed
from thetahat.data.corpus.corpus import Corpus, note_counts, reading_of
from thetahat.data.corpus.losses import Losses, losses_of
from thetahat.data.order.fit import fits_of
from thetahat.data.order.pack import Pieces, enumerate_counts, take
from thetahat.data.order.plan import Draw, Plan, gather
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.distribution.world import World
from thetahat.ledger.contribution import spread
from thetahat.objective.factorization import factor
from thetahat.objective.weights import divisor
from thetahat.run.base import new_tokens, resolved
from thetahat.run.config import RunConfig
from thetahat.run.machine import set_up
from thetahat.run.prepare import Prepared, prepare

NORMALIZATIONS = ("token", "sequence", "turn", "dialogue", "length")


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a record, as the first epoch reads it."""

    id: int
    text: str
    weight: float  # its loss weight, before the divisor of the step
    part: str
    role: str
    why: str  # asked (a target), end (of a turn or a text), masked, prompt, context (read, with weight 0), or cut


@dataclass(frozen=True, slots=True)
class Explained:
    """One record."""

    id: str
    tokens: list[Token]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Account:
    """Sums over all records of the training part."""

    records: int
    tokens_asked: int  # targets
    tokens_cut: int
    prompt_tokens_cut: int
    records_without_weight: int  # not read, since nothing in them counts
    ends_asked: int  # targets that are <|endoftext|> or another special token
    begins_with_end_of_text: int  # sequences that begin as a text does, with <|endoftext|> or what the tokenizer has
    begin: str  # what a text begins with, by name
    losses: Losses  # text that the tokens do not represent
    turn_ends: dict[str, int]  # the special tokens that end supervised turns, with how many
    groups: list[dict[str, Any]]  # by source, role and part: records, targets (`asked`), tokens read, tokens cut
    concentration: dict[str, dict[str, float]]  # by normalization: effective_number, top_share of the heaviest 1 %
    notes: dict[str, int]  # notes, with how many records have each
    read_as: dict[str, int]  # in which form records were written
    unread: dict[str, int]  # what stands in records and is not read, by name
    reading: list[str]  # the same in words
    fits: list[dict[str, Any]]  # of each context: the share of the text behind it, and what would hold 99 % and all
    fit: list[str]  # the same in words
    new_tokens: str  # that a base lacks, and what becomes of their rows, in a line; empty where there are none


class Explanation(NamedTuple):
    """The first records token by token, and the account of all."""

    records: list[Explained]
    account: Account

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return self._asdict()


def explain(config: RunConfig, num_records: int = 3) -> Explanation:
    """The first records token by token, and the account of all."""
    config = resolved(config)
    set_up(config)
    with TemporaryDirectory() as folder:
        prepared = prepare(config, Path(folder), World())
    shown = [explain_record(prepared, document) for document in range(min(num_records, prepared.train.num_documents))]
    return Explanation(shown, account(prepared))


def explain_record(prepared: Prepared, document: int) -> Explained:
    """A record's tokens, sequence by sequence, with those that data.over_long cuts."""
    corpus, plan = prepared.train, prepared.order.plan(0)
    mine = np.flatnonzero(corpus.column["spans.document"][plan.pieces.span] == document)
    pieces = take(plan.pieces, mine[np.argsort(plan.pieces.span[mine], kind="stable")])
    packed = gather(corpus, replace(plan, pieces=pieces), np.arange(len(pieces)), Draw(prepared.config.seed))
    weight, masked = _weights(prepared, packed)
    tokens: list[Token] = []
    for span in np.flatnonzero(corpus.column["spans.document"] == document).tolist():
        tokens += _span(prepared, pieces, span, weight, masked)
    notes = corpus.documents["notes"][document].as_py()
    return Explained(corpus.documents["id"][document].as_py(), tokens, notes.split("\n") if notes else [])


def _weights(prepared: Prepared, packed: Packed) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The loss weight of each packed token, and whether something else is read in its place."""
    weight, masked = np.zeros(len(packed.tokens)), np.zeros(len(packed.tokens), dtype=np.bool_)
    if not len(packed.tokens):
        return weight, masked
    batch = factor(packed, prepared.config.objective, prepared.train.symbols)
    supervised = batch.weights != 0
    np.add.at(weight, batch.origin[supervised].numpy(), batch.weights[supervised].numpy())
    if prepared.config.objective.factorization.hides_targets:
        masked[batch.origin[supervised].numpy()] = True
    return weight, masked


def _span(
    prepared: Prepared, pieces: Pieces, span: int, weight: NDArray[np.float64], masked: NDArray[np.bool_]
) -> Iterator[Token]:
    corpus, tokenizer = prepared.train, prepared.tokenizer
    starts = np.concatenate([[0], np.cumsum(pieces.stop - pieces.start)])
    ids = corpus.span(span)
    parts = corpus.part_of(corpus.offsets[span] + np.arange(len(ids)))
    known = {part.number: part for part in corpus.describe(np.unique(parts))}
    for place, id in enumerate(ids.tolist()):
        if place == 0 and corpus.column["spans.parent"][span] and not corpus.layout.has_source:
            continue  # the last token of its parent once more
        inside = np.flatnonzero((pieces.span == span) & (pieces.start <= place) & (place < pieces.stop))
        at = [int(starts[piece] + place - pieces.start[piece]) for piece in inside]
        counts = float(sum(weight[one] for one in at))
        number = int(parts[place])
        part, is_prompt = known[number], bool(corpus.column["parts.is_prompt"][number])
        is_special = id < len(corpus.symbols.is_special) and bool(corpus.symbols.is_special[id])
        if not at:
            why = "cut" if part.weight else "context"
        elif counts:
            why = "masked" if any(masked[one] for one in at) else "end" if is_special else "asked"
        else:
            why = "prompt" if is_prompt else "context"
        yield Token(id, _text(tokenizer, prepared.labels, id, part.name), counts, part.name, part.role, why)


def _text(tokenizer: Tokenizer, labels: tuple[str, ...], id: int, part: str) -> str:
    return labels[id] if part == "label" else tokenizer.piece(id)


def account(prepared: Prepared) -> Account:
    """The account: records, tokens kept and cut, by source, role and part; how many records the objective rests on."""
    corpus, plan = prepared.train, prepared.order.plan(0)
    column, report = corpus.column, prepared.order.cut
    first = corpus.tokens[corpus.offsets[:-1][column["spans.parent"] == 0]]
    targets, reading = _target_ids(corpus, plan), reading_of(corpus)
    fits = fits_of(corpus, prepared.config.data)
    return Account(
        records=corpus.num_documents,
        tokens_asked=int(plan.num_targets.sum()),
        tokens_cut=report.tokens_cut,
        prompt_tokens_cut=report.prompt_cut,
        records_without_weight=report.documents_without_weight,
        ends_asked=0 if corpus.layout.is_whole else int(corpus.symbols.is_special.numpy()[targets].sum()),
        begins_with_end_of_text=int((first == corpus.symbols.frames.text.before[0]).sum()),
        begin=prepared.tokenizer.shown(corpus.symbols.frames.text.before),
        losses=losses_of(corpus),
        turn_ends=_turn_ends(prepared, plan) if prepared.config.data.chat else {},
        groups=_groups(corpus, plan),
        concentration={name: _concentration(prepared, plan, name) for name in NORMALIZATIONS},
        notes=note_counts(corpus),
        read_as=reading.forms,
        unread=reading.unread,
        reading=reading.lines(),
        fits=[fit.to_dict() for fit in fits],
        fit=list(map(str, fits)),
        new_tokens=new_tokens(prepared.config, prepared.tokenizer),
    )


def _turn_ends(prepared: Prepared, plan: Plan) -> dict[str, int]:
    corpus, pieces = prepared.train, plan.pieces
    piece, index = enumerate_counts(pieces.targets)
    place = (corpus.offsets[pieces.span] + pieces.scored_from)[piece] + index
    part = corpus.part_of(place)
    is_last = np.append(part[1:] != part[:-1], True) & ~corpus.column["parts.is_prompt"][part]
    ids, counts = np.unique(corpus.tokens[place[is_last]].astype(np.int64), return_counts=True)
    special = corpus.symbols.is_special.numpy()
    pairs = zip(ids.tolist(), counts.tolist(), strict=True)
    return {prepared.tokenizer.piece(id): count for id, count in pairs if special[id]}


def _target_ids(corpus: Corpus, plan: Plan) -> NDArray[np.int64]:
    pieces = plan.pieces
    piece, index = enumerate_counts(pieces.targets)
    place = (corpus.offsets[pieces.span] + pieces.scored_from)[piece] + index
    return corpus.tokens[place[~corpus.column["parts.is_prompt"][corpus.part_of(place)]]].astype(np.int64)


def _groups(corpus: Corpus, plan: Plan) -> list[dict[str, Any]]:
    column = corpus.column
    sources = corpus.documents["source"].take(column["parts.document"]).to_pylist()
    roles, names = corpus.tables["parts"]["role"].to_pylist(), corpus.tables["parts"]["name"].to_pylist()
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    rows = zip(
        sources,
        roles,
        names,
        (corpus.part_tokens * (column["documents.weight"][column["parts.document"]] > 0)).tolist(),
        plan.kept.tolist(),
        plan.num_targets.tolist(),
        column["parts.is_prompt"].tolist(),
        strict=True,
    )
    for source, role, name, there, kept, num_targets, is_prompt in rows:
        key = (source, role, name)
        group = found.setdefault(
            key, {"source": source, "role": role, "part": name, "records": 0, "asked": 0, "read": 0, "cut": 0}
        )
        group["records"] += 1
        group["read"] += there if is_prompt else kept
        group["asked"] += num_targets
        group["cut"] += 0 if is_prompt else there - kept
    return list(found.values())


def _concentration(prepared: Prepared, plan: Plan, normalization: Any) -> dict[str, float]:
    corpus = prepared.train
    objective = replace_config(prepared.config.objective, normalization=normalization)
    document = torch.tensor(corpus.column["parts.document"])
    weight = torch.from_numpy(corpus.column["parts.weight"] * corpus.column["documents.weight"][document.numpy()])
    num_targets, tokens, parts = (
        torch.from_numpy(x).double() for x in (plan.num_targets, plan.record_tokens, plan.record_parts)
    )
    of_part, of_record, turns = (values.clamp(min=1) for values in (num_targets, tokens[document], parts[document]))
    total = weight * num_targets / divisor(of_part, of_record, turns, objective)
    by_record = torch.zeros(corpus.num_documents, dtype=torch.float64).index_add_(0, document, total)
    found = spread(by_record[by_record > 0].numpy())
    return {name: getattr(found, name) for name in ("effective_number", "top_share")}
