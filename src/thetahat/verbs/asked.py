"""What a command is asked about: a model or a config, before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path

from thetahat.data.config import ChatConfig
from thetahat.data.tokens.tokenizer import Tokenizer, load_tokenizer
from thetahat.model.adapters.lora import adapt, freeze
from thetahat.model.adapters.rows import train_new_rows
from thetahat.model.build import LanguageModel, build_model
from thetahat.model.config import ModelConfig
from thetahat.run.config import RunConfig
from thetahat.run.folder.stored import StoredModel, find_model
from thetahat.run.prepare import special_tokens


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked at: a model, trained or not, with the config that it was, or would be, trained by."""

    name: str
    model: ModelConfig
    config: RunConfig | None
    stored: StoredModel | None
    tokenizer: Tokenizer | None
    num_rows: int  # of the table of tokens
    labels: tuple[str, ...]
    context: int
    chat: ChatConfig | None

    def on_meta(self) -> LanguageModel:
        """The model as it is trained, without memory: with its adapter, and with what is frozen."""
        model, config = build_model(self.model, self.num_rows, len(self.labels)), self.config
        if config and config.adapter:
            adapt(model, config.adapter, config.seed, len(self.labels))
        if config:
            freeze(model, config.frozen)
            if self.tokenizer and config.base_vocab_size and self.tokenizer.vocab_size > config.base_vocab_size:
                train_new_rows(model, self.num_rows - config.base_vocab_size, len(self.labels))
        return model


def look_at(what: str | RunConfig, training: RunConfig | None = None) -> Asked:
    """A MODEL, or a config. `training` is the config by which a model would be trained, in place of its run's."""
    return _of_config(what) if isinstance(what, RunConfig) else _of_model(what, training)


def _of_config(config: RunConfig) -> Asked:
    """A config: its vocabulary is what it asks for, or that of its tokenizer or base."""
    model, base, tokenizer = config.model, None, None
    if config.base:
        base = find_model(config.base, deep=False)
        model, tokenizer = base.card.model, base.tokenizer()
    elif config.data.tokenizer:
        tokenizer = load_tokenizer(Path(config.data.tokenizer))
    if tokenizer:
        tokenizer = tokenizer.with_special_tokens(special_tokens(config))
    size = tokenizer.vocab_size if tokenizer else config.data.vocab_size
    rows = max(size, (base.card.num_rows or 0) if base else 0)
    labels, data = config.data.labels, config.data
    return Asked(config.recipe, model, config, None, tokenizer, rows, labels, data.context, data.chat)


def _of_model(name: str, training: RunConfig | None) -> Asked:
    stored = find_model(name, deep=False)
    card, tokenizer = stored.card, stored.tokenizer()
    rows = max(tokenizer.vocab_size, card.num_rows or 0)
    config = training or stored.run
    return Asked(name, card.model, config, stored, tokenizer, rows, card.labels, card.context, card.chat)
