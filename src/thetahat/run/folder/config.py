"""The config that a run folder or a checkpoint holds; no torch is needed to read it."""

import os
from pathlib import Path

from msgspec.structs import replace

from thetahat.core import store
from thetahat.core.config import from_toml
from thetahat.core.errors import ConfigError
from thetahat.run.config import RunConfig
from thetahat.run.folder.files import CONFIG
from thetahat.run.folder.moved import find_model_again


def read_config(folder: Path) -> RunConfig:
    """The config of a checkpoint or of a run; where its base was moved, with the place where it is found now."""
    path = folder / CONFIG
    try:
        with store.reading(path):
            text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    config = from_toml(text, RunConfig, name=str(path))
    if config.base is None or config.base_digest is None or _is_there(config.base):
        return config
    return replace(config, base=find_model_again(config.base, config.base_digest, folder) or config.base)


def _is_there(model: str) -> bool:
    from thetahat.interop.hub import is_hub_name  # which needs torch

    return is_hub_name(model) or os.path.lexists(model) or os.path.lexists(model.rpartition("@")[0])
