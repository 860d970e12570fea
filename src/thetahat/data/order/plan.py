"""A corpus under a policy: its pieces, what they keep of each part, and a batch of them as tokens."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from thetahat.core.batch import Packed
from thetahat.core.errors import ConfigError, DataError
from thetahat.core.parts import Parts
from thetahat.core.random import derived_seed
from thetahat.data.config import DataConfig
from thetahat.data.corpus.corpus import Corpus, Ints
from thetahat.data.order.fit import needed_by
from thetahat.data.order.pack import Column, Cut, Pieces, cut, enumerate_counts, take, windows


@dataclass(frozen=True, slots=True)
class Plan:
    """Pieces of a corpus, and how many targets they have of each part."""

    pieces: Pieces
    kept: Column  # [parts]; of prompts: 0
    num_targets: Column  # [parts], of these, how many may be targets; normalisations count them
    record_tokens: Column  # [documents], the same of a whole record
    record_parts: Column  # [documents], how many parts of each have targets
    has_prompt: NDArray[np.bool_]  # [documents]
    weighs: bool = True  # whether a token counts for its weight, or 1 as in scoring


class Draw(NamedTuple):
    """What the random choices of a factorization depend on, beside the sequence itself."""

    seed: int = 0
    epoch: int | Ints = 0  # of all pieces, or of each


class Planned(NamedTuple):
    """What training reads of some records."""

    plan: Plan
    cut: Cut
    silent: Ints  # the records that ask nothing, and should


def plan_training(corpus: Corpus, config: DataConfig, phase: Ints | None = None) -> tuple[Plan, Cut]:
    """The pieces that training reads, by the policy for over-long documents, and what it left out."""
    planned = plan_part(corpus, config, phase)
    check_silent(corpus, config, planned.silent)
    return planned.plan, planned.cut


def plan_part(corpus: Corpus, config: DataConfig, phase: Ints | None = None) -> Planned:
    """The same, and the records that ask nothing: those of a part of a corpus are an error of the whole."""
    targets = _targets(corpus)
    layout, room = corpus.layout, room_of(corpus, config)
    pieces, report = cut(
        corpus.lengths[targets],
        room,
        config.over_long,
        phase=None if phase is None else phase[targets] % room,
        name=lambda index: corpus.name_of(int(targets[index])),
        added=config.context - room,
    )
    pieces = _with_parents(corpus, replace(pieces, span=targets[pieces.span]), config.context / config.source_room)
    is_alone = np.bincount(pieces.unit)[pieces.unit] == 1
    pieces = replace(pieces, size=pieces.size + layout.num_added * is_alone)
    is_text = not corpus.column["parts.is_prompt"].any() and corpus.num_documents == len(corpus.lengths)
    if is_text and corpus.column["documents.weight"].all():
        return Planned(_plan(corpus, pieces), replace(report, context=config.context), targets[:0])
    pieces, silent = _supervised(corpus, pieces)
    plan = _plan(corpus, pieces)
    report = replace(report, context=config.context, are_labels=layout.predicts_label)
    return Planned(plan, replace(report, **_account(corpus, plan)), silent)


def room_of(corpus: Corpus, config: DataConfig) -> int:
    """How many targets a row holds."""
    layout = corpus.layout
    room = config.context - layout.reads_last - layout.num_added
    if room < 1:
        least = config.context - room + 1
        raise ConfigError(f"data.context={config.context}", allowed=f"{least} or more", cure=f"data.context={least}")
    return room


def check_silent(corpus: Corpus, config: DataConfig, silent: Ints) -> None:
    """A record without targets is an error, or left out by data.unsupervised."""
    if len(silent) and config.unsupervised == "error":
        names = ", ".join(corpus.documents["id"].take(silent[:5]).to_pylist())
        needed = int(needed_by(corpus, silent).max())
        whole = f"data.context={needed}, which holds them whole" if needed > config.context else "targets in them"
        raise DataError(
            f"{len(silent)} of {corpus.num_documents} records ask nothing under over_long={config.over_long} at "
            f"context={config.context}: {names}",
            cure=f"{whole}, another data.over_long, or data.unsupervised=skip to leave them out",
        )


def check_lengths(corpus: Corpus, config: DataConfig) -> None:
    """Raises DataError for documents that are too long, if they may not be; of all, so that all are counted."""
    if config.over_long == "error" and int(corpus.lengths.max(initial=0)) - 1 > room_of(corpus, config):
        targets, room = _targets(corpus), room_of(corpus, config)
        cut(
            corpus.lengths[targets],
            room,
            "error",
            name=lambda index: corpus.name_of(int(targets[index])),
            added=config.context - room,
        )


def _account(corpus: Corpus, plan: Plan) -> dict[str, int]:
    """What was kept and what was left out; of records that have weight 0, only how many they are."""
    pieces, is_prompt, counts = plan.pieces, corpus.column["parts.is_prompt"], corpus.column["documents.weight"] > 0
    spans = np.flatnonzero(counts[corpus.column["spans.document"]])
    cut_before = corpus.column["documents.tokens_cut"]
    kept = np.bincount(corpus.column["parts.document"], plan.kept, corpus.num_documents)
    there = np.bincount(corpus.column["parts.document"], corpus.part_tokens * ~is_prompt, corpus.num_documents)
    lost = (there + cut_before - kept) * counts
    prompts = corpus.count_by_part(spans, 0 * spans, corpus.lengths[spans])[is_prompt].sum()
    read = corpus.count_by_part(pieces.span, pieces.start, pieces.stop)[is_prompt].sum()
    is_cut = (lost > 0) & (kept > 0)
    several = np.flatnonzero(np.bincount(pieces.span, minlength=len(corpus.lengths)) > 1)  # spans in several pieces
    is_cut[corpus.column["spans.document"][several]] = True
    return {
        "num_documents": int((kept > 0).sum()),
        "num_tokens": int(kept.sum()),
        "tokens_cut": int(lost.sum()),
        "documents_cut": int((is_cut & counts).sum()),
        "documents_dropped": int(((kept == 0) & counts).sum()),
        "prompt_cut": int(max(prompts - read, 0) + corpus.column["documents.prompt_cut"][counts].sum()),
        "documents_without_weight": int((~counts).sum()),
    }


def plan_scoring(corpus: Corpus, context: int, stride: int) -> Plan:
    """Windows in which every token is a target exactly once, with all the context that fits; a tree is one unit."""
    targets = _targets(corpus)
    room = context - corpus.layout.reads_last
    pieces = windows(corpus.lengths[targets], room, min(stride, room))
    pieces = _with_parents(corpus, replace(pieces, span=targets[pieces.span]), 0.0)
    pieces = replace(pieces, row=pieces.unit)  # the branches of a tree see what they share
    widest = int(np.bincount(pieces.unit, pieces.size).max(initial=0))
    if widest > context:
        cure = "the context that the corpus was made for, or a corpus made for this one"
        raise ConfigError(f"a dialogue takes {widest} positions, and the context holds {context}", cure=cure)
    return replace(_plan(corpus, pieces), weighs=False)


def _targets(corpus: Corpus) -> Ints:
    """The spans that have targets: all but those that an encoder reads for a decoder."""
    if not corpus.layout.has_source:
        return np.arange(len(corpus.lengths))
    return np.flatnonzero(corpus.column["spans.parent"])


def _with_parents(corpus: Corpus, pieces: Pieces, share: float) -> Pieces:
    """The same pieces with their parents: in a tree those of its sequence, in a pair a source for every target.

    A position of a source takes up `share` of a target's: both sides of a row fill up alike.
    """
    parent = corpus.column["spans.parent"][pieces.span]
    if corpus.layout.is_whole:
        return replace(pieces, size=pieces.size + corpus.layout.reads_last)
    if not parent.any():
        return pieces
    if corpus.layout.has_source:
        return _paired(corpus, pieces, share)
    sequence = corpus.column["spans.sequence"][pieces.span]
    is_tree = np.bincount(corpus.column["spans.sequence"])[sequence] > 1
    continues = np.zeros(len(pieces), bool)
    continues[1:] = is_tree[1:] & (sequence[1:] == sequence[:-1])
    return replace(pieces, parent=np.where(is_tree, parent, 0), unit=np.cumsum(~continues) - 1)


def _paired(corpus: Corpus, pieces: Pieces, share: float) -> Pieces:
    """Source, target, source, target, ...; a row has room for as many as both sides hold."""
    source = pieces.span - corpus.column["spans.parent"][pieces.span]
    length = corpus.lengths[source]
    size = np.maximum(pieces.size, np.ceil(length * share).astype(np.int64))
    whole = {"span": source, "start": 0 * length, "scored_from": length, "stop": length}
    both = {name: np.stack([one, getattr(pieces, name)], 1).ravel() for name, one in whole.items()}
    index = np.arange(len(pieces))
    both |= {"parent": np.tile([0, 1], len(pieces)), "unit": np.repeat(index, 2), "row": np.repeat(index, 2)}
    return Pieces(**both, size=np.stack([0 * size, size], 1).ravel(), num_rows=len(pieces))


def _supervised(corpus: Corpus, pieces: Pieces) -> tuple[Pieces, Ints]:
    """The pieces without units that have no target with a loss weight, so that no step is without one.

    A record of weight 0 is left out; records without targets are returned beside.
    """
    num_targets = corpus.targets_in(pieces.span, pieces.scored_from, pieces.stop)
    document = corpus.column["spans.document"][pieces.span]
    counts = corpus.column["documents.weight"][document] > 0
    silent = np.setdiff1d(document[counts], document[num_targets > 0])
    starts, num_targets = pieces.unit_starts, num_targets * counts
    of_unit = np.add.reduceat(num_targets, starts) if len(starts) else num_targets
    kept = take(pieces, np.flatnonzero(np.repeat(of_unit > 0, np.diff(starts, append=len(pieces)))))
    return kept, silent


def _plan(corpus: Corpus, pieces: Pieces) -> Plan:
    document, is_prompt = corpus.column["parts.document"], corpus.column["parts.is_prompt"]
    kept = corpus.count_by_part(pieces.span, pieces.scored_from, pieces.stop)
    kept[is_prompt] = 0
    num_targets = kept - _ends(corpus, pieces) if corpus.layout.reads_end else kept
    counted = np.where(corpus.column["parts.weight"] > 0, num_targets, 0)
    record_tokens = np.bincount(document, counted, corpus.num_documents).astype(np.int64)
    record_parts = np.bincount(document, counted > 0, corpus.num_documents).astype(np.int64)
    has_prompt = np.bincount(document[is_prompt], minlength=corpus.num_documents) > 0
    return Plan(pieces, kept, num_targets, record_tokens, record_parts, has_prompt)


def _ends(corpus: Corpus, pieces: Pieces) -> Ints:
    """[parts], how many of the kept tokens end a text: where a text is read whole, its end is no target."""
    number = np.arange(len(corpus.symbols.frames.text.after))
    last = (corpus.offsets[pieces.span] + pieces.stop - 1)[:, None] - number
    last = last[number < np.maximum(pieces.targets, 1)[:, None]]
    is_end = corpus.symbols.is_special.numpy()[corpus.tokens[last].astype(np.int64)]
    return np.bincount(corpus.part_of(last[is_end]), minlength=corpus.num_parts)


def gather(corpus: Corpus, plan: Plan, index: Ints, draw: Draw | None = None) -> Packed:
    """The tokens of these pieces, in this order; neighbours of one row share a row, numbered from 0."""
    chosen = take(plan.pieces, index)
    piece, position, token = places(corpus, chosen)
    place = chosen.start[piece] + position  # in the span
    tokens = corpus.tokens[token].astype(np.int64)
    known, part = _distinct(corpus.part_of(token))
    is_prompt = corpus.column["parts.is_prompt"][known]
    parts = _parts(corpus, plan, known)
    weight = parts.weight.numpy() if plan.weighs else np.ones(len(parts))
    counts = (place >= chosen.scored_from[piece]) & (position > 0)
    changes = np.diff(chosen.row, prepend=chosen.row[:1]) != 0
    number = np.arange(len(index))
    seed, epoch = draw or Draw()
    keys = zip(np.broadcast_to(epoch, len(index)).tolist(), chosen.span.tolist(), chosen.start.tolist(), strict=True)
    seeds = [derived_seed(seed, "sequence", *key) for key in keys]
    return Packed(
        tokens=torch.from_numpy(tokens),
        weight=torch.from_numpy(np.where(counts, np.where(is_prompt, 0.0, weight)[part], 0.0)),
        num_bytes=torch.from_numpy(corpus.bytes_at(token)),
        position=torch.from_numpy(position + corpus.column["spans.position"][chosen.span[piece]]),
        part=torch.from_numpy(part),
        is_prompt=torch.from_numpy(is_prompt[part]),
        piece=torch.from_numpy(piece),
        row=torch.from_numpy(np.cumsum(changes)),
        parent=torch.from_numpy(np.where(chosen.parent > 0, number - chosen.parent, -1)),
        seed=torch.tensor(seeds, dtype=torch.int64),
        parts=parts,
    )


def places(corpus: Corpus, pieces: Pieces) -> tuple[Ints, Ints, Ints]:
    """Of each token of these pieces: its piece, its place there, and its place in all tokens."""
    piece, position = enumerate_counts(pieces.stop - pieces.start)
    return piece, position, (corpus.offsets[pieces.span] + pieces.start)[piece] + position


def _distinct(values: Ints) -> tuple[Ints, Ints]:
    """`np.unique` with the inverse, of values that repeat in runs."""
    start = np.flatnonzero(np.diff(values, prepend=-1))
    known, of_run = np.unique(values[start], return_inverse=True)
    return known, np.repeat(of_run, np.diff(start, append=len(values)))


def _parts(corpus: Corpus, plan: Plan, part: Ints) -> Parts:
    document = corpus.column["parts.document"][part]
    weight = corpus.column["documents.weight"][document] * corpus.column["parts.weight"][part]
    counts = (plan.num_targets[part], plan.record_tokens[document], plan.record_parts[document])
    return Parts(
        torch.from_numpy(part),
        torch.from_numpy(weight),
        *(torch.from_numpy(np.maximum(count, 1).astype(np.int64)) for count in counts),
        has_prompt=torch.from_numpy(plan.has_prompt[document]),
        describe=corpus.describe,
    )
