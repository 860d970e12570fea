"""A model ready to be asked."""

from dataclasses import dataclass
from pathlib import Path

import torch
from msgspec.structs import replace

from thetahat.core.config import override
from thetahat.core.errors import ConfigError, NonFiniteError
from thetahat.data.tokens.tokenizer import Tokenizer, load_tokenizer
from thetahat.model.build import LanguageModel
from thetahat.run.base import load_base
from thetahat.run.config import RunConfig, resolve, set_up
from thetahat.run.folder.checkpoint import TOKENIZER, load_parameters, read_config, read_progress
from thetahat.run.folder.find import find_checkpoint as find_checkpoint
from thetahat.run.state import first_model

_ASKING = ("device", "dtype", "threads", "deterministic", "seed", "data.split_on")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to be asked."""

    model: LanguageModel
    tokenizer: Tokenizer
    config: RunConfig
    folder: Path
    device: torch.device
    labels: tuple[str, ...] = ()  # of a classification, in the order of the head


def load(name: str, overrides: tuple[str, ...] = ()) -> Loaded:
    """The model of this name; `overrides` may change how it runs (device, dtype, threads), not what it is."""
    folder = find_checkpoint(name)
    saved = read_config(folder)
    config = override(saved, [_for_asking(pair) for pair in overrides])
    if (
        config.device == "cuda"
        and not torch.cuda.is_available()
        and not any(o.startswith("device=") for o in overrides)
    ):
        config = replace(config, device="cpu")  # trained on a GPU, asked on a machine without
    config = resolve(config)
    device = set_up(config)
    labels, tokenizer = tuple(read_progress(folder)["labels"]), load_tokenizer(folder / TOKENIZER)
    model = first_model(config, tokenizer.vocab_size, device, len(labels))
    if config.adapter:
        load_base(model, config, len(labels))
    load_parameters(model, folder, config)
    if sick := [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]:
        raise NonFiniteError(f"{folder}: parameters are not finite: {', '.join(sick[:5])}", cure="another checkpoint")
    return Loaded(model.eval(), tokenizer, config, folder, device, labels)


def _for_asking(pair: str) -> str:
    """The KEY=VALUE, if it changes how a model is asked; what would be ignored is refused."""
    key, _, value = pair.partition("=")
    if key == "batch_size":
        return f"evaluation.batch_size={value}"
    if key not in _ASKING and not key.startswith("evaluation."):
        raise ConfigError(
            f"{key} does not change how a trained model is asked",
            allowed=f"{', '.join(_ASKING)}, batch_size, evaluation.*",
        )
    return pair
