"""From a config to what the loop needs: tokenizer, training order, held-out corpus, and the first state."""

from collections.abc import Iterable
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from thetahat.core import store
from thetahat.core.batch import Batch, Symbols
from thetahat.core.errors import ConfigError
from thetahat.data.build import build_corpus
from thetahat.data.cache import default_cache
from thetahat.data.config import DataConfig
from thetahat.data.corpus import Corpus, shared_documents
from thetahat.data.source import Record, divide
from thetahat.data.stream import TrainingOrder
from thetahat.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from thetahat.distribution.world import World
from thetahat.objective.factorization import factor
from thetahat.run.checkpoint import TOKENIZER
from thetahat.run.config import RunConfig

logger = getLogger("thetahat")


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that stays the same while a run runs."""

    config: RunConfig
    tokenizer: Tokenizer
    train: Corpus
    order: TrainingOrder
    held_out: Corpus | None
    num_steps: int

    @property
    def symbols(self) -> Symbols:
        """What the factorization knows of the vocabulary."""
        return self.tokenizer.symbols

    def batches(self, step: int, world: World) -> list[Batch]:
        """The micro-batches of one rank for the update after `step` updates."""
        rows = self.config.micro_batch_size or self.config.batch_size
        width = self.config.data.context if self.config.compile else None  # one shape, compiled once
        packed = self.order.packed(step, world.rank, world.size, rows)
        return [factor(pack, self.config.objective, self.symbols, width) for pack in packed]


def prepare(config: RunConfig, folder: Path | None, world: World) -> Prepared:
    """Trains or reads the tokenizer, tokenises both parts of the data, plans the order.

    The first rank does the work and leaves it in the cache; the others read it there.
    """
    if config.data.train == "-" and world.size > 1:
        raise ConfigError(
            "standard input has one reader, not several ranks", cure="write it to a file: data.train=PATH"
        )
    if not world.is_first:
        world.first_does(lambda: None)
    else:
        world.first_does(lambda: _tokenizer_and_corpora(config, folder))
    tokenizer, train, held_out = _tokenizer_and_corpora(config, folder)
    order = TrainingOrder(train, config.data, config.seed, config.batch_size)
    if world.is_first:
        logger.info("%s", order.cut)
        _warn_of_leaks(train, held_out)
    return Prepared(config, tokenizer, train, order, held_out, _num_steps(config, order))


def _warn_of_leaks(train: Corpus, held_out: Corpus | None) -> None:
    """Counts held-out documents whose very text is trained on, which hash:F rules out and other divisions do not."""
    leaked = shared_documents(held_out, train) if held_out else []
    if leaked:
        shown = ", ".join(leaked[:3])
        logger.warning("%d held-out documents are in the training part, word for word: %s", len(leaked), shown)


def _tokenizer_and_corpora(config: RunConfig, folder: Path | None) -> tuple[Tokenizer, Corpus, Corpus | None]:
    train_records, held_out_records = divide(config.data)
    tokenizer = _tokenizer(config.data, folder, train_records)
    cache = default_cache() / "corpora"
    train = build_corpus(train_records, tokenizer, {"part": "train"}, cache)
    held_out = None
    if held_out_records is not None:
        held_out = build_corpus(held_out_records, tokenizer, {"part": "held-out"}, cache)
    return tokenizer, train, held_out


def _tokenizer(config: DataConfig, folder: Path | None, records: Iterable[Record]) -> Tokenizer:
    """The run's own tokenizer where it is there already, else the named one, else one trained on the training part."""
    kept = folder / TOKENIZER if folder else None
    if kept and kept.is_file():
        return load_tokenizer(kept)
    if config.tokenizer:
        tokenizer = load_tokenizer(Path(config.tokenizer))
    else:
        tokenizer = train_tokenizer((text for record in records for text in record.texts), config.vocab_size)
    if kept:
        store.write_text(kept, tokenizer.to_json())
    return tokenizer


def _num_steps(config: RunConfig, order: TrainingOrder) -> int:
    """max_steps, or fewer where max_tokens targets are reached before."""
    if config.max_tokens is None:
        return config.max_steps
    num_tokens = 0
    for step in range(config.max_steps):
        num_tokens += order.num_targets(step)
        if num_tokens >= config.max_tokens:
            return step + 1
    return config.max_steps
