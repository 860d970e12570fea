"""What has been scored of a corpus, kept on disk so that a later start goes on where an earlier one stopped."""

import time
from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from typing import final

import numpy as np
from safetensors.numpy import load_file, save_file

from thetahat.core import store
from thetahat.core.errors import ModelError
from thetahat.scoring.likelihood import ScoredTokens

logger = getLogger("thetahat")
EVERY = 30.0  # seconds between two saves
FILE = "answers.safetensors"  # of a part


@final
class FolderJournal:
    """Scored groups in a folder: each rank writes a part every `EVERY` seconds, which is there whole or not at all.

    `key` is a digest of what is scored, with what and how. Parts under another key belong to another question, and are
    deleted.
    """

    def __init__(self, folder: Path, key: str, rank: int = 0) -> None:
        self.folder = folder
        self._rank = rank
        self._parts = folder / key
        self._waiting: dict[int, ScoredTokens] = {}
        self._saved = time.monotonic()

    def clear_others(self) -> None:
        """Deletes what has another key or was not finished. One process does so, before any reads `known`."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path != self._parts and path.is_dir():
                logger.warning("%s: what was scored there is of another model, text or policy: begun anew", self.folder)
                store.remove(path)
        if self._parts.is_dir():
            store.remove_partial(self._parts)

    def known(self) -> Mapping[int, ScoredTokens]:
        """Every group in a part that is whole; groups of a damaged part are scored again."""
        found: dict[int, ScoredTokens] = {}
        for part in sorted(self._parts.glob("part-*")):
            try:
                store.verify(part)
            except ModelError as error:
                logger.warning("not used, and scored again: %s", error)
                continue
            columns = load_file(part / FILE)
            starts = np.cumsum(columns["size"])[:-1]
            split = [np.split(columns[name], starts) for name in ScoredTokens._fields]
            for number, *values in zip(columns["group"].tolist(), *split, strict=True):
                found[number] = ScoredTokens(*values)
        return found

    def add(self, number: int, scored: ScoredTokens) -> None:
        """Keeps the results of one group, and saves every `EVERY` seconds."""
        self._waiting[number] = scored
        if time.monotonic() - self._saved >= EVERY:
            self.save()

    def save(self) -> None:
        """Writes what was added since the last save."""
        self._saved = time.monotonic()
        if not self._waiting:
            return
        groups = list(self._waiting.values())
        columns = {name: np.concatenate([getattr(one, name) for one in groups]) for name in ScoredTokens._fields}
        columns["group"] = np.array(list(self._waiting), dtype=np.int64)
        columns["size"] = np.array([len(one.token) for one in groups], dtype=np.int64)
        self._parts.mkdir(parents=True, exist_ok=True)
        with store.publishing(self._parts / self._free_name()) as part:
            save_file(columns, part / FILE)
        self._waiting.clear()

    def save_if_interrupted(self, error: type[BaseException] | None, *_: object) -> None:
        """For the end of a `with` block: saves if an error ended it, since otherwise all is written elsewhere."""
        if error:
            self.save()

    def _free_name(self) -> str:
        """A name that no damaged part has and no other rank uses."""
        number = len(list(self._parts.glob(f"part-{self._rank}-*")))
        while (self._parts / f"part-{self._rank}-{number:06d}").exists():
            number += 1
        return f"part-{self._rank}-{number:06d}"
