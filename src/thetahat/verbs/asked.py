"""What a command is asked about: a model or a config, before anything is loaded."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from thetahat.data.config import ChatConfig
from thetahat.data.tokens.tokenizer import Tokenizer, load_tokenizer
from thetahat.model.adapters.config import LoRAConfig
from thetahat.model.adapters.lora import adapt, freeze
from thetahat.model.adapters.rows import train_new_rows
from thetahat.model.build import LanguageModel, build_model
from thetahat.model.config import ModelConfig
from thetahat.run.config import RunConfig
from thetahat.run.folder.stored import Described, Foreign, StoredModel, find_described
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
    family: str | None = None  # model_type of a folder of transformers

    def on_meta(self) -> LanguageModel:
        """The model as it is trained, without memory: with its adapter, and with what is frozen."""
        config, more = self.config, False
        if config and self.tokenizer and config.base_vocab_size:
            more = self.tokenizer.vocab_size > config.base_vocab_size
        trained = config and _Trained(
            config.adapter, config.seed, config.frozen, config.base_vocab_size if more else None
        )
        return _on_meta(self.model, self.num_rows, len(self.labels), trained)


class _Trained(NamedTuple):
    """What a config says of which parameters there are, and which are trained."""

    adapter: LoRAConfig | None
    seed: int
    frozen: tuple[str, ...]
    first_new: int | None  # row of the table of tokens from which on they are new


@lru_cache(maxsize=1)
def _on_meta(shape: ModelConfig, num_rows: int, num_labels: int, trained: _Trained | None) -> LanguageModel:
    """Thousands of experts take seconds to be made, so what is asked again is kept."""
    model = build_model(shape, num_rows, num_labels)
    if trained and trained.adapter:
        adapt(model, trained.adapter, trained.seed, num_labels)
    if trained:
        freeze(model, trained.frozen)
        if trained.first_new is not None:
            train_new_rows(model, num_rows - trained.first_new, num_labels)
    return model


def look_at(what: str | RunConfig, training: RunConfig | None = None) -> Asked:
    """A MODEL, or a config. `training` is the config by which a model would be trained, in place of its run's."""
    return _of_config(what) if isinstance(what, RunConfig) else _of_model(what, training)


def _of_config(config: RunConfig) -> Asked:
    """A config: its vocabulary is what it asks for, or that of its tokenizer or base."""
    model, base, tokenizer = config.model, None, None
    if config.base:
        base = find_described(config.base)
        model, tokenizer = base.card.model, None if isinstance(base, Described) else base.tokenizer()
    elif config.data.tokenizer:
        tokenizer = load_tokenizer(Path(config.data.tokenizer))
    if tokenizer:
        tokenizer = tokenizer.with_special_tokens(special_tokens(config))
    given = (base.card.num_rows or 0) if base else 0
    rows = max(tokenizer.vocab_size if tokenizer else given or config.data.vocab_size, given)
    labels, data = config.data.labels, config.data
    return Asked(config.recipe, model, config, None, tokenizer, rows, labels, data.context, data.chat)


def _of_model(name: str, training: RunConfig | None) -> Asked:
    stored = find_described(name)
    card = stored.card
    if isinstance(stored, Described):
        rows = stored.hub.vocab_size
        return Asked(name, card.model, training, None, None, rows, (), card.context, None, stored.hub.family)
    tokenizer = stored.tokenizer()
    rows = max(tokenizer.vocab_size, card.num_rows or 0)
    config = training or stored.run
    family = stored.hub.family if isinstance(stored, Foreign) else None
    return Asked(name, card.model, config, stored, tokenizer, rows, card.labels, card.context, card.chat, family)
