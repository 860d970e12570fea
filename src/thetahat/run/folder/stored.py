"""A model on disk, whatever made it: a checkpoint of a run, or a folder of Hugging Face's transformers."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import final

from torch import Tensor

from thetahat.core import store
from thetahat.core.errors import ModelError
from thetahat.data.config import ChatConfig
from thetahat.data.tokens.tokenizer import Tokenizer, load_tokenizer
from thetahat.interop.folder import (
    HubFolder,
    HubShape,
    is_hub_folder,
    is_shape_alone,
    open_folder,
    parameters_in,
    read_shape,
)
from thetahat.interop.hub import is_hub_name, local_folder
from thetahat.model.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from thetahat.objective.config import Causal, Conditional, Factorization, Masked
from thetahat.run.card import Card
from thetahat.run.config import InferenceConfig, RunConfig
from thetahat.run.folder.checkpoint import TOKENIZER, read_card, read_inference
from thetahat.run.folder.config import read_config
from thetahat.run.folder.files import CONFIG
from thetahat.run.folder.find import find_weights
from thetahat.run.folder.moved import run_of
from thetahat.run.folder.weights import Weights

_TEMPLATES = ("chat_template.jinja", "tokenizer_config.json")  # where a folder has its chat template, in this order
UNBOUNDED = 512
"""Positions read at once of a model that does not say for how many it was trained (T5, which was for 512)."""


@final
@dataclass(frozen=True)
class Checkpoint:
    """What a run has saved, an average of it, or what a command has made of it; verified."""

    weights: Weights

    @property
    def folder(self) -> Path:
        """Where it lies; of an average, where what is beside its weights lies."""
        return self.weights.folder

    @property
    def name(self) -> str:
        """Its folder; of an average, which lies in none of its own, RUN@NAME."""
        return f"{run_of(self.folder)}@{self.weights.name}" if self.weights.is_average else str(self.folder)

    @cached_property
    def card(self) -> Card:
        """What it says of itself."""
        return read_card(self.folder)

    @cached_property
    def run(self) -> RunConfig | None:
        """The run that saved it."""
        return read_config(self.folder) if (self.folder / CONFIG).exists() else None

    @property
    def inference(self) -> InferenceConfig:
        """That of its run."""
        return read_inference(self.folder)

    @property
    def digest(self) -> str:
        """As the manifest has it, which was verified."""
        return self.weights.digest

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return load_tokenizer(self.folder / TOKENIZER)


@final
@dataclass(frozen=True)
class Foreign:
    """A folder as `transformers` writes it."""

    hub: HubFolder

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.hub.path

    @property
    def name(self) -> str:
        """Its folder."""
        return str(self.folder)

    @property
    def run(self) -> None:
        """None of ours."""

    @property
    def inference(self) -> InferenceConfig:
        """The defaults."""
        return InferenceConfig()

    @cached_property
    def card(self) -> Card:
        """Read off its config: a decoder is causal, an encoder masked, and an encoder-decoder reads a source."""
        hub = self.hub
        template = next((name for name in _TEMPLATES if (hub.path / name).is_file()), None)
        return Card(
            model=hub.config,
            factorization=_factorization(hub.config),
            context=hub.context or UNBOUNDED,
            num_rows=hub.vocab_size,
            has_head=hub.has_head,
            chat=ChatConfig(template=str(hub.path / template)) if template and hub.chat_template else None,
        )

    @cached_property
    def digest(self) -> str:
        """Of one file its SHA-256, of several that of their names and digests."""
        files = sorted({stored.file for stored in self.hub.stored.values()})
        digests = {path.name: store.digest_file(path) for path in files}
        if len(digests) == 1:
            return next(iter(digests.values()))
        return hashlib.sha256("".join(f"{name} {one}\n" for name, one in digests.items()).encode()).hexdigest()

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, with the special tokens that its config names."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        if self.hub.tokenizer is None:
            raise ModelError(
                f"{self.folder} has no tokenizer.json", cure="the tokenizer.json that belongs to this model, beside it"
            )
        return load_tokenizer(self.folder, self.hub.roles)

    def parameters(self) -> Mapping[str, Tensor]:
        """By our names, each mapped when it is asked for; a tied table once."""
        return parameters_in(self.hub)


@final
@dataclass(frozen=True)
class Described:
    """A folder that has the config.json of a model of `transformers` and no weights: what one would be."""

    hub: HubShape

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.hub.path

    @cached_property
    def card(self) -> Card:
        """Read off its config."""
        return Card(
            model=self.hub.config,
            factorization=_factorization(self.hub.config),
            context=self.hub.context or UNBOUNDED,
            num_rows=self.hub.vocab_size,
        )


StoredModel = Checkpoint | Foreign
"""What can be known of a model before its weights are read: folder, card, tokenizer, digest of the weights."""


def check_head(stored: StoredModel) -> None:
    """Raises ModelError where there is none over the vocabulary, so that logits would mean nothing."""
    if not stored.card.has_head:
        raise ModelError(
            f"{stored.folder} has hidden states and no head over its vocabulary: no text has a likelihood under it",
            cure=f"thetahat train classification base={stored.folder} data.train=labelled.jsonl: a head over labels",
        )


def find_model(name: str, *, deep: bool = True) -> StoredModel:
    """The model that a MODEL argument means: a folder of transformers, here or on the hub, or a checkpoint.

    Without `deep` the parameters of a checkpoint are not verified: they are not read.
    """
    if is_hub_name(name):
        return _foreign(local_folder(name))
    if is_hub_folder(Path(name)):
        return _foreign(Path(name))
    return Checkpoint(find_weights(name, deep=deep))


def find_described(name: str) -> StoredModel | Described:
    """The same without verified parameters, or what a config.json without weights describes."""
    return Described(read_shape(Path(name))) if is_shape_alone(Path(name)) else find_model(name, deep=False)


def _foreign(path: Path) -> Foreign:
    """The folder, checked, hashed and its tokenizer read once a process, as long as no file in it changes."""
    with store.reading(path):
        files = sorted([path, *path.glob("*"), *path.glob("*/*.jinja")])
        states = [(file, file.stat()) for file in files if file.is_file()]
    return _opened(path, tuple((file, state.st_size, state.st_mtime_ns, state.st_ino) for file, state in states))


@lru_cache(maxsize=4)
def _opened(path: Path, files: tuple[tuple[Path, int, int, int], ...]) -> Foreign:
    return Foreign(open_folder(path))


def _factorization(model: ModelConfig) -> Factorization:
    match model:
        case DecoderConfig():
            return Causal()
        case EncoderConfig():
            return Masked()
        case EncoderDecoderConfig():
            return Conditional()
