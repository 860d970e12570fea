"""From a config to what the loop needs: tokenizer, corpora, and the order of training."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from logging import getLogger
from pathlib import Path
from shlex import quote

from thetahat.core import store
from thetahat.core.batch import Batch
from thetahat.core.errors import ConfigError, DataError
from thetahat.core.plain import counted
from thetahat.core.work.phases import phase
from thetahat.data.chat.encode import ChatOptions
from thetahat.data.chat.template import load_template
from thetahat.data.config import named
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.corpus import Corpus, note_counts, reading_of, shared_documents
from thetahat.data.corpus.encode import Encoding
from thetahat.data.corpus.losses import losses_of
from thetahat.data.corpus.sample import sample_of
from thetahat.data.order.fit import fits_of
from thetahat.data.order.stream import TrainingOrder
from thetahat.data.read.bad import settle_together
from thetahat.data.read.cache import cache_folder
from thetahat.data.read.named.kind import holds_objects
from thetahat.data.read.record import Record
from thetahat.data.read.source import Mixed, Records, divide
from thetahat.data.tokens.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from thetahat.distribution.mesh import Share, refuse_ranks
from thetahat.distribution.world import ALONE, World, described_size
from thetahat.model.float8 import multiply_in_float8
from thetahat.objective.factorization import factor
from thetahat.run.base import base_tokenizer
from thetahat.run.card import Card, card_of
from thetahat.run.config import RunConfig
from thetahat.run.folder.checkpoint import TOKENIZER
from thetahat.run.state import model_on_meta
from thetahat.run.together import refuse_division, refuse_float8, refuse_offload

logger = getLogger("thetahat")
SAMPLE = "tokenizer_sample.json"  # what of the data the tokenizer beside it was trained on
NOTES = 12  # notes about records that are logged before step 1
SHOWN = 4  # names of labels or fields, in an error


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that does not change during a run."""

    config: RunConfig
    tokenizer: Tokenizer
    train: Corpus
    order: TrainingOrder
    held_out: Corpus | None
    num_steps: int
    labels: tuple[str, ...] = ()  # of a classification, in the order of the head
    offset: int = 0  # of the position in the order from the step; another one than 0 only where a run was branched

    def batches(self, step: int, world: World = ALONE) -> list[Batch]:
        """The micro-batches of one rank for the update after `step` updates.

        Where ranks hold the model together all get as many as the first, which has most; those without rows of their
        own are the first rank's, without targets. Of rows that several ranks read together each has some positions.
        """
        mine = self._batches(step, world.data)
        if world.layout.shards is not None:
            most = self._batches(step, Share(0, world.data.size))
            mine += [batch.idle() for batch in most[len(mine) :]]
        return [world.cut(batch) for batch in mine]

    def _batches(self, step: int, share: Share) -> list[Batch]:
        rows = min(self.config.micro_batch_size or self.config.batch_size, -(-self.config.batch_size // share.size))
        rows = -(-rows // self.config.num_at_once)
        row_length = self.config.data.context if self.config.compile else None  # one shape, compiled once
        packed = self.order.packed(step + self.offset, *share, rows)
        return [factor(pack, self.config.objective, self.train.symbols, row_length) for pack in packed]

    def fingerprint(self, step: int) -> str:
        """A digest of the global batch of that update."""
        return self.order.fingerprint(step + self.offset)

    def standing(self, step: int) -> dict[str, int]:
        """Where the data has been read to after `step` updates: the next global batch, and its epoch and row in it."""
        position = step + self.offset
        if position == 0:
            return {"position": 0, "epoch": 0, "row": 0}
        epoch, batch = self.order.locate(position - 1)  # that of `position` itself may not be planned yet
        is_over = batch + 1 == self.order.num_batches(epoch)
        place = (epoch + 1, 0) if is_over else (epoch, (batch + 1) * self.config.batch_size)
        return {"position": position, "epoch": place[0], "row": place[1]}

    def sources(self, step: int) -> dict[str, dict[str, int | float]]:
        """Of a mixture, by source: rows and epochs that were read by then; empty where there is one source."""
        uses = self.order.uses(0, step + self.offset)
        return {use.name: {"rows": use.filled, "epochs": round(use.epochs, 4)} for use in uses}

    def from_step(self, step: int, tokens: int, position: int) -> "Prepared":
        """The same for a run that has learned from `tokens` targets in `step` updates and reads on at `position`."""
        num_steps = _num_steps(self.config, self.order, (step, tokens, position))
        self.order.uses(position, position + num_steps - step)  # raises where sources are used up before
        return replace(self, offset=position - step, num_steps=num_steps)


def prepare(config: RunConfig, folder: Path | None = None, world: World = ALONE) -> Prepared:
    """Trains or loads the tokenizer, encodes both parts of the data, and plans the order.

    The first rank does the work and writes it to the cache, from which the others read it.
    """
    refuse_shared_input(config, world.size)
    with phase("preparing"):
        return _prepare(config, folder, world)


def _prepare(config: RunConfig, folder: Path | None, world: World) -> Prepared:
    if not world.is_first:
        world.first_does(lambda: None)
    else:
        world.first_does(lambda: _tokenizer_and_corpora(config, folder))
    tokenizer, train, held_out, labels = _tokenizer_and_corpora(config, folder)
    with phase("planning"):
        order = TrainingOrder(train, config.data, config.seed, config.batch_size)
        num_steps = _num_steps(config, order)
        uses = order.uses(0, num_steps)
    if world.is_first:
        for line in (*reading_of(train).lines(), str(order.cut), *map(str, uses)):
            logger.info("%s", line)
        for fit in fits_of(train, config.data):
            if fit.behind:
                logger.info("%s", fit)
        _tell(note_counts(train))
        if lost := str(losses_of(train)):
            logger.warning("%s", lost)
        _warn_of_leaks(config, train, held_out)
    return Prepared(config, tokenizer, train, order, held_out, num_steps, labels)


def check_layout(config: RunConfig) -> None:
    """Raises ConfigError where the ranks that are started cannot share the data or the model, by the config alone.

    Each rank asks before it joins the others: who ends when they have met takes the store of slower ones with it, and
    these would say that it is lost. The model is built without memory. Of a tokenizer that is trained later, the
    vocabulary is the one asked for.
    """
    size, mesh = described_size(), config.mesh
    refuse_ranks(mesh, size)
    refuse_shared_input(config, size)
    refuse_offload(config)
    refuse_float8(config)
    if size == 1:
        return
    num_tokens, specials = config.base_vocab_size or config.data.vocab_size, special_tokens(config)
    if mesh.tensor == mesh.pipeline == 1:
        pass  # whatever the vocabulary is
    elif config.base:
        num_tokens = base_tokenizer(config, specials).vocab_size
    elif config.data.tokenizer:
        num_tokens = load_tokenizer(Path(config.data.tokenizer)).with_special_tokens(specials).vocab_size
    model = model_on_meta(config, num_tokens, int(config.objective.factorization.layout.predicts_label))
    refuse_division(config, model, mesh)
    if config.float8:
        multiply_in_float8(model)


def refuse_shared_input(config: RunConfig, size: int) -> None:
    """Raises ConfigError where several ranks would read standard input."""
    keys = [key for key, place in config.data.places.items() if "-" in named(place)]
    if keys and size > 1:
        raise ConfigError(
            f"{keys[0]}=-: standard input has one reader, not {size} ranks",
            cure=f"write it to a file: {keys[0]}=PATH",
        )


def _tell(notes: Mapping[str, int]) -> None:
    """Logs before step 1 how records are read, where that may be unexpected."""
    for note, count in list(notes.items())[:NOTES]:
        logger.warning("in %s: %s", counted(count, "record"), note)
    if len(notes) > NOTES:
        logger.warning("%s more: thetahat explain has all", counted(len(notes) - NOTES, "note"))


def _warn_of_leaks(config: RunConfig, train: Corpus, held_out: Corpus | None) -> None:
    """Warns of records on both sides. hash:F excludes the same texts, prompts and documents; other divisions do not."""
    if held_out is None or held_out.num_documents == train.num_documents == 1:
        return
    same = shared_documents(held_out, train)
    _warn(("held-out document is", "held-out documents are"), "in the training part, word for word", same)
    alike = sorted(set(shared_documents(held_out, train, "folded")) - set(same))
    _warn(
        ("held-out record begins", "held-out records begin"),
        "like one of the training part, but for case and blanks",
        alike,
    )
    if "tail" in config.data.rules:  # other files hold other documents
        divided = shared_documents(held_out, train, "document")
        _warn(("held-out record is", "held-out records are"), "of documents that are trained on, too", divided)


def _warn(forms: tuple[str, str], what: str, ids: Sequence[str]) -> None:
    """`forms` are the noun and the verb, for one and for many."""
    if ids:
        more = ", ..." if len(ids) > 3 else ""
        logger.warning("%s %s: %s%s", counted(len(ids), *forms), what, ", ".join(ids[:3]), more)


def _tokenizer_and_corpora(
    config: RunConfig, folder: Path | None
) -> tuple[Tokenizer, Corpus, Corpus | None, tuple[str, ...]]:
    train_records, held_out_records = divide(config.data)
    if not any(map(holds_objects, train_records.files)):
        if config.data.chat:
            raise _no_dialogue(config, "a .txt holds texts")
        if config.data.columns:
            raise ConfigError("data.columns has no effect: a .txt has no fields", cure="leave it out")
    tokenizer = _tokenizer(config, folder, train_records)
    labels = _labels(config, train_records, held_out_records)
    cache, card = cache_folder("corpora"), card_of(config, labels)
    encoding = replace(encoding_of(card), on_bad_record=config.data.on_bad_record)
    parts = [(train_records, "train")] + ([(held_out_records, "held-out")] if held_out_records is not None else [])
    train, *others = settle_together(
        partial(build_corpus, records, tokenizer, {"part": name}, cache, encoding) for records, name in parts
    )
    if config.data.chat and not train.holds_dialogues:
        raise _no_dialogue(config, f"none of its {train.num_documents:,} records is one")
    return tokenizer, train, next(iter(others), None), labels


def _no_dialogue(config: RunConfig, why: str) -> DataError:
    key = "data.sources" if config.data.sources else "data.train"
    return DataError(
        f"{key}={config.data.told} holds no dialogue, which data.chat is for: {why}",
        allowed='records like {"messages": [{"role": "user", "content": "..."}, ...]}, in .jsonl, .parquet or .arrow',
        cure="another recipe, for what it holds: thetahat recipes",
    )


def encoding_of(card: Card) -> Encoding:
    """How records become token ids for the factorization of a model.

    The turns of a dialogue share their common beginning, in training as in scoring. A prefix model reads another
    prefix for each turn, every position of which sees all of it, so there is nothing to share.
    """
    layout = card.factorization.layout
    room = card.source_room if layout.has_source else card.context - layout.num_added
    chat = None
    if card.chat:
        template, streams = load_template(card.chat), 2 if layout.has_source else 1
        chat = ChatOptions(template, room, card.factorization.shares_prefixes, card.over_long, streams)
    return Encoding(layout, card.labels, room, card.over_long, chat, card.unsupervised)


def special_tokens(config: RunConfig) -> list[str]:
    """The special tokens that the vocabulary needs beside <|endoftext|>."""
    names = list(config.data.special_tokens)
    if config.data.chat:
        names += load_template(config.data.chat).special_tokens
    return [*names, *config.objective.factorization.special_tokens(config.data.context)]


def _labels(config: RunConfig, train: Iterable[Record], held_out: Iterable[Record] | None) -> tuple[str, ...]:
    """The labels of the config, or those of the training part, which has all of them."""
    if not config.objective.factorization.layout.predicts_label:
        return ()
    if config.data.labels:
        return _several(config.data.labels)
    labels = {record.text for record in train if record.prompt is not None}
    if not labels:
        raise _no_label(train)
    others = Counter(
        record.text for record in held_out or () if record.prompt is not None and record.text not in labels
    )
    if others:
        named = ", ".join(f"{label!r} (in {counted(count, 'record')})" for label, count in others.most_common(SHOWN))
        every = json.dumps(sorted({*labels, *others}), ensure_ascii=False)
        raise DataError(
            f"what is held out has {counted(len(others), 'label')} that no record to train on has: {named}",
            cure=f"data.labels={quote(every)}, which declares all of them; or records with them to train on",
        )
    return _several(sorted(labels))


def _several(labels: Sequence[str]) -> tuple[str, ...]:
    if len(labels) < 2:
        raise DataError(
            f"one label to choose from: {labels[0]!r}", allowed="2 or more", cure="data.columns.label=NAME, of another"
        )
    return tuple(labels)


def _no_label(records: Iterable[Record]) -> DataError:
    """The error for records without a label, with the names of what else stands in them."""
    unread = Counter(name for record in records for name in record.unread)
    names = [name for name, _ in unread.most_common(SHOWN)]
    beside = f"; not read in them: {', '.join(map(repr, names))}" if names else ""
    typed = [f"data.columns.label={quote(name)}" for name in names] or ["data.columns.label=NAME"]
    return DataError(
        f"no record to train on has a label{beside}",
        allowed='{"text": ..., "label": ...}, in .jsonl, .csv, .parquet, ...',
        cure=f"{' or '.join(typed)}, whichever is the label",
    )


def _tokenizer(config: RunConfig, folder: Path | None, records: Records | Mixed) -> Tokenizer:
    """The tokenizer in the run's folder if there is one, else the named one, else one trained on the training part."""
    kept = folder / TOKENIZER if folder else None
    if kept and kept.is_file():
        return load_tokenizer(kept)
    if config.base:
        tokenizer = base_tokenizer(config, special_tokens(config))
    elif config.data.tokenizer:
        tokenizer = load_tokenizer(Path(config.data.tokenizer)).with_special_tokens(special_tokens(config))
    else:
        sample = sample_of(records, config.data.tokenizer_bytes)
        if sample.chosen is not None:
            logger.info("%s", sample)
            if kept:
                store.write_json(kept.with_name(SAMPLE), sample.facts())
        tokenizer = train_tokenizer(sample.texts, config.data.vocab_size, special_tokens(config), sample.num_bytes)
    if kept:
        for name, text in tokenizer.files().items():
            store.write_text(kept.with_name(name), text)
    return tokenizer


def _num_steps(config: RunConfig, order: TrainingOrder, begun: tuple[int, int, int] = (0, 0, 0)) -> int:
    """max_steps, or fewer if max_tokens targets are reached earlier; `begun` are steps, targets and position by now."""
    if config.max_tokens is None:
        return config.max_steps
    first, num_tokens, position = begun
    return first + order.num_batches_with(config.max_tokens - num_tokens, config.max_steps - first, position)
