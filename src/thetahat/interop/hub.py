"""Models on the Hugging Face hub, by name: `hf:owner/name@revision` as a folder of this machine."""

import functools
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import final

from thetahat.core.errors import ConfigError, ModelError
from thetahat.interop.files import INDEX, WEIGHTS, read_object

PREFIX = "hf:"
FILES = (
    *("config.json", "generation_config.json", "model.safetensors", "model-*.safetensors"),
    *("model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("chat_template.jinja", "additional_chat_templates/*.jinja"),
)
"""What is fetched of a model: no pickles, no code, no weights in other formats."""

_NAME = re.compile(r"hf:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
_AGAIN = "the same command where there is a network (hf download {} there, then copy), or a folder"
logger = getLogger("thetahat")


@final
@dataclass(frozen=True, slots=True)
class HubName:
    """A model of the hub, and of which state of it is spoken."""

    name: str  # owner/name
    revision: str | None  # a commit, a branch or a tag; None: the newest of the main branch

    @property
    def is_pinned(self) -> bool:
        """Whether the name means the same bytes tomorrow."""
        return self.revision is not None and re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}" + (f"@{self.revision}" if self.revision else "")


def is_hub_name(name: str) -> bool:
    """Whether this speaks of the hub."""
    return name.startswith(PREFIX)


def hub_name(text: str) -> HubName:
    """The model that `hf:owner/name@revision` means."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{text!r} is no name of a model on the hub", allowed="hf:owner/name or hf:owner/name@REVISION"
        )
    return HubName(match["name"], match["revision"])


def local_folder(text: str) -> Path:
    """The folder of `hf:owner/name@revision` in the hub's own cache, fetched if it is not there.

    What is not pinned by a commit is resolved to one, and the pinned name is said.
    """
    wanted = hub_name(text)
    with _speaking(wanted):
        folder = _snapshot(wanted)
    pinned = HubName(wanted.name, folder.name)
    if not wanted.is_pinned:
        tell_pinned(wanted, pinned)
    return folder


@functools.cache
def tell_pinned(wanted: HubName, pinned: HubName) -> None:
    """Says once what a name means, however often it is looked up."""
    logger.info("%s is %s today; that name stays what it is", wanted, pinned)


def pinned(text: str) -> str:
    """The same name with the commit that it means in the cache."""
    return str(HubName(hub_name(text).name, local_folder(text).name))


def _snapshot(wanted: HubName) -> Path:
    """Its folder in the cache; of a pinned model that is there nothing is asked."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(
            f"{wanted} is on the hub, and the package that speaks with it is not installed",
            cure="pip install 'thetahat[hf]', or download the folder and name it",
        ) from error
    folder = Path(snapshot_download(wanted.name, revision=wanted.revision, allow_patterns=list(FILES)))
    if missing := _missing(folder):
        raise ModelError(
            f"{wanted} has no {missing[0]}, on the hub or in the part of it that is in the cache",
            allowed="models with safetensors",
            cure=_AGAIN.format(wanted.name),
        )
    return folder


def _missing(folder: Path) -> list[str]:
    """The files of weights that are not there: without a network a part of a model may be all that the cache has."""
    index = folder / INDEX
    shards = set(read_object(index)["weight_map"].values()) if index.exists() else {WEIGHTS}
    return sorted(name for name in shards if not (folder / name).exists())


@contextmanager
def _speaking(wanted: HubName) -> Generator[None]:
    """Turns what the package raises into one message that says what to do."""
    try:
        from huggingface_hub import errors
    except ImportError:
        yield
        return
    again = _AGAIN.format(wanted.name)
    try:
        yield
    except errors.GatedRepoError as error:
        cure = "ask for access on its page, then hf auth login"
        raise ModelError(f"{wanted} is given out on request only", cure=cure) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{wanted.name} has no revision {wanted.revision}", allowed="a commit, branch or tag"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"{wanted}: the hub has no such model, or shows it to others only") from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(f"{wanted} is not in the cache, and the hub cannot be reached", cure=again) from error
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError) as error:
        raise ModelError(f"{wanted} cannot be fetched: {str(error).splitlines()[0]}", cure=again) from error
