"""How likely a text is under a model."""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from logging import INFO
from pathlib import Path
from typing import Any

import msgspec
import torch

from thetahat.core import store
from thetahat.core.config import digest
from thetahat.core.errors import DataError, FolderError
from thetahat.core.special import Frames
from thetahat.data.corpus.build import build_corpus, fingerprint_of
from thetahat.data.corpus.corpus import Corpus, reading_of
from thetahat.data.corpus.subset import chosen_documents
from thetahat.data.order.plan import plan_scoring
from thetahat.data.read.cache import cache_folder, doing_without
from thetahat.data.read.files import find_files, say_once
from thetahat.data.read.source import Mixed, Records, divide
from thetahat.data.read.texts import Texts
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.distribution.world import World, join_world
from thetahat.ledger.breakdown import GroupLikelihood, by_position, position_cells
from thetahat.ledger.ledger import LedgerRow, write_ledger
from thetahat.ledger.pairing import WHOLE
from thetahat.ledger.policy import Policy
from thetahat.ledger.summary import Summary, summarize
from thetahat.run.folder.files import read_progress
from thetahat.run.folder.folder import version_of
from thetahat.run.prepare import encoding_of
from thetahat.scoring.journal import FolderJournal
from thetahat.scoring.likelihood import ScoredTokens, ScoringHooks, bytes_of, ledger_rows, score_corpus
from thetahat.scoring.noise import NoiseFloor, noise_floor
from thetahat.scoring.tokens import token_table, write_tokens
from thetahat.verbs.load import Loaded, load

Shows = Callable[[int, int], None]
_NAME_DATA = "thetahat score MODEL DATA"


@dataclass(frozen=True, slots=True)
class Score:
    """The totals, the rows that they are sums of, and how these were computed."""

    summary: Summary
    policy: str
    rows: list[LedgerRow]
    groups: dict[str, list[GroupLikelihood]]  # by source, role, part, length, position; where there is more than one
    noise: NoiseFloor  # what reading in other company changes
    tokens_cut: int  # targets of the data that were not scored: what data.over_long cut
    prompt_cut: int  # of prompts and earlier turns, not read
    metadata: dict[str, str]  # what the ledger says of itself
    evaluated: Summary | None = None  # of the documents that the run's own evaluations score, where these are a part

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        parts = {"classification": self.summary.classification, "evaluated_by_the_run": self.evaluated}
        return {
            "model": self.metadata["model"],
            "data": self.metadata["data_paths"].replace("\n", ", "),
            **self.summary.to_dict(),
            f"noise_floor_nats_per_{'label' if self.summary.classification else 'token'}": self.noise.nats_per_token,
            "tokens_cut": self.tokens_cut,
            "prompt_tokens_cut": self.prompt_cut,
            "interval_unit": self.summary.interval_unit,
            "policy": self.policy,
            "by": self.groups,
        } | {name: found.to_dict() for name, found in parts.items() if found}


def score(
    model: Loaded | str,
    data: Sequence[str] = (),
    *,
    out: Path | None = None,
    tokens: Path | None = None,
    shows: Shows | None = None,
) -> Score:
    """The log-likelihood of every document of `data`; without data, of what the run held out.

    Policy, dtype and text division are those of the run, so on its held-out part this is the number of its log.
    `out` gets the ledger, `tokens` a row for every token. With `out`, what was scored is kept beside it until it is
    there: started again after an interruption, scoring goes on.
    """
    _check_targets(out, tokens)
    loaded = load(model) if isinstance(model, str) else model
    world = join_world(loaded.inference.device)
    corpus = corpus_of(loaded, data, world)
    policy = policy_on(loaded, corpus)
    metadata = metadata_of(loaded, corpus, data)
    with ExitStack() as stack:  # until all is written: what fails there costs no scoring
        journal = _journal(out, metadata, world, stack) if out else None
        hooks = ScoringHooks(shows=shows or (lambda done, total: None), journal=journal)
        likelihoods = score_corpus(loaded.model, corpus, policy, world, loaded.device, hooks)
        rows = _with_cuts(ledger_rows(likelihoods, corpus, loaded.card.labels), corpus)
        if tokens and world.is_first:
            write_tokens(tokens, token_table(likelihoods, corpus, rows), metadata)
            stack.push(partial(_remove_after, tokens))
        if out and world.is_first:
            write_ledger(out, rows, metadata)
    if out and world.is_first:
        shutil.rmtree(_journal_folder(out), ignore_errors=True)
    return Score(
        summarize(rows),
        policy.words(),
        rows,
        by_position(rows, position_cells(rows, likelihoods.token_log_prob, bytes_of(likelihoods, corpus))),
        noise_floor(loaded.model, corpus, policy, likelihoods, loaded.device),
        int(corpus.column["documents.tokens_cut"].sum()),
        int(corpus.column["documents.prompt_cut"].sum()),
        metadata,
        None if data else _evaluated(loaded, corpus, rows),
    )


def _evaluated(loaded: Loaded, corpus: Corpus, rows: Sequence[LedgerRow]) -> Summary | None:
    """What the run's own evaluations would find with this model; None where they score all that is held out."""
    most = loaded.stored.run.evaluation.max_documents if loaded.stored.run else None
    if most is None or most >= corpus.num_clusters:
        return None
    names, digests = (corpus.documents[name].to_pylist() for name in ("document", "digest"))
    chosen = chosen_documents(names, digests, most)
    return summarize([row for row in rows if row.document in chosen])


def _check_targets(out: Path | None, tokens: Path | None) -> None:
    if out and tokens:
        ours, theirs = out.resolve(), tokens.resolve()
        if ours == theirs or ours in theirs.parents or theirs in ours.parents:
            what = f"the ledger {str(out)!r} and the table of tokens {str(tokens)!r} are in each other's way"
            raise FolderError(what, cure="another --tokens")
    if out:
        store.check_target(out)
    if tokens:
        store.check_target(tokens, "--tokens")


def _journal(out: Path, metadata: dict[str, str], world: World, stack: ExitStack) -> FolderJournal:
    """The journal with what an earlier start of this command has scored; it is saved if this one is interrupted."""
    told = sorted(metadata.items()), ScoredTokens._fields
    key = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
    journal = FolderJournal(_journal_folder(out), key, world.rank)
    if world.is_first:
        stack.enter_context(store.holding(journal.folder))
    world.first_does(journal.clear_others)
    stack.push(journal.save_if_interrupted)
    return journal


def _remove_after(path: Path, error: type[BaseException] | None, *_: object) -> None:
    """For the end of a `with` block: if the ledger failed, its table of tokens is removed for the next start."""
    if error:
        path.unlink(missing_ok=True)


def _journal_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.scoring")


def corpus_of(loaded: Loaded, data: Sequence[str], world: World) -> Corpus:
    """The data as the model reads it; without data, what its run held out."""
    settings = {} if data else {"part": "held-out"}

    def build() -> Corpus:
        records, encoding = _records(loaded, data), encoding_of(loaded.card)
        encoding = replace(encoding, on_bad_record=records.on_bad)
        return build_corpus(records, loaded.tokenizer, settings, cache_folder("corpora"), encoding)

    with doing_without():
        corpus = world.first_does(build) or build()
    for line in reading_of(corpus).lines() if world.is_first else ():
        say_once(line, INFO)
    if not data:
        world.first_does(lambda: _check_held_out(loaded, corpus, settings))
    return corpus


def _check_held_out(loaded: Loaded, corpus: Corpus, settings: Mapping[str, str]) -> None:
    """Raises FolderError unless this text is what the run held out, at whatever context it is read now.

    A fingerprint is of whole records and of how they are cut. Where they are cut in another way than in training, the
    records are read once more, and digested as the run did it.
    """
    then, found = read_progress(loaded.folder)["data"], corpus.fingerprint
    theirs = encoding_of(loaded.stored.card).settings()
    if found not in then and theirs != encoding_of(loaded.card).settings():
        found = fingerprint_of(_records(loaded, ()), loaded.tokenizer, {**settings, **theirs})
    if found not in then:
        raise FolderError(
            f"the text of {loaded.folder} has changed since: this is not what was held out",
            cure="bring the text back as it was, or name the text to score: thetahat score MODEL DATA",
        )


def _records(loaded: Loaded, data: Sequence[str]) -> Texts | Records | Mixed:
    if data:
        return Texts(find_files(data), loaded.card.read_options, loaded.on_bad_record)
    if loaded.stored.run is None:
        raise DataError(f"{loaded.folder} is of no run, which would have held out text", cure=_NAME_DATA)
    try:
        _, held_out = divide(loaded.stored.run.data)
    except DataError as error:
        raise DataError(
            f"what this run held out cannot be read here: {error.what}",
            cure="the folder in which the run was started, if its paths are relative to that; or name the text: "
            f"{_NAME_DATA}",
        ) from error
    if held_out is None:
        raise DataError("this run held out nothing (data.held_out=none)", cure=_NAME_DATA)
    return held_out


def _with_cuts(rows: list[LedgerRow], corpus: Corpus) -> list[LedgerRow]:
    """The rows, the first of each record with what was cut of it."""
    ids, counts = corpus.documents["id"].to_pylist(), corpus.column["documents.tokens_cut"]
    cut = {id: int(count) for id, count in zip(ids, counts, strict=True) if count}
    return [replace(row, tokens_cut=cut.pop(row.id)) if row.id in cut else row for row in rows]


def _is_whole(corpus: Corpus, policy: Policy) -> bool:
    cuts = corpus.column["documents.tokens_cut"].any() or corpus.column["documents.prompt_cut"].any()
    return not cuts and not plan_scoring(corpus, policy.context, policy.stride).pieces.start.any()


def computed_on(loaded: Loaded) -> str:
    """The device, and for a CPU the number of threads, on which the order of sums depends."""
    threads = f", threads={torch.get_num_threads()}" if loaded.device.type == "cpu" else ""
    return f"{loaded.device.type}{threads}"


def policy_on(loaded: Loaded, corpus: Corpus) -> Policy:
    """The policy by which the model scores this text."""
    return msgspec.structs.replace(loaded.policy, reads_parts_together=corpus.reads_parts_together)


def metadata_of(loaded: Loaded, corpus: Corpus, data: Sequence[str]) -> dict[str, str]:
    """The metadata of the ledger: everything on which its numbers depend."""
    tokenizer, policy = loaded.tokenizer, policy_on(loaded, corpus)
    return {
        "thetahat": version_of("thetahat") or "",
        "model": loaded.stored.name,
        "model_sha256": loaded.stored.digest,
        "card": digest(loaded.card),
        "tokenizer_sha256": tokenizer.digest,
        "data": corpus.fingerprint,
        "data_paths": "\n".join(data) or "what the run held out",
        "policy": policy.to_json(),
        "read": WHOLE if _is_whole(corpus, policy) else "in part through windows or limits",
        "batch_size": "1 at a time" if policy.deterministic else str(policy.batch_size),
        "first_token": f"{_named(tokenizer, tokenizer.frames)}: read once before each text, never a target",
        "computed_on": computed_on(loaded),
        "unit": "nats",
    }


def _named(tokenizer: Tokenizer, frames: Frames) -> str:
    """What a text begins with, by name and id."""
    return " ".join(f"{tokenizer.piece(id)}, id {id}" for id in frames.text.before)
