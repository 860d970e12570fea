"""What has been scored of a corpus, kept on disk so that a later start goes on where this one stopped."""

import time
from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from typing import final

import numpy as np
from safetensors.numpy import load_file, save_file

from thetahat.core import store
from thetahat.core.errors import ModelError
from thetahat.scoring.likelihood import Answers

logger = getLogger("thetahat")
EVERY = 30.0  # seconds between two saves


@final
class FolderJournal:
    """Answers in a folder, a part for every `EVERY` seconds of each rank, whole or not there.

    `key` says what is scored, with what and how: answers under another key are another's, and are deleted.
    """

    def __init__(self, folder: Path, key: str, rank: int = 0) -> None:
        self.folder = folder
        self._rank = rank
        self._parts = folder / key
        self._waiting: dict[int, Answers] = {}
        self._saved = time.monotonic()

    def clear_others(self) -> None:
        """Deletes what belongs to another key or was not finished; for one process, before any asks for `known`."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path != self._parts and path.is_dir():
                logger.warning("%s: what was scored there is of another model, text or policy: begun anew", self.folder)
                store.remove(path)
        if self._parts.is_dir():
            store.remove_partial(self._parts)

    def known(self) -> Mapping[int, Answers]:
        """Every answer that is whole; a damaged part is asked again."""
        found: dict[int, Answers] = {}
        for part in sorted(self._parts.glob("part-*")):
            try:
                store.verify(part)
            except ModelError as error:
                logger.warning("not used, and scored again: %s", error)
                continue
            columns = load_file(part / "answers.safetensors")
            starts = np.cumsum(columns["size"])[:-1]
            split = [np.split(columns[name], starts) for name in Answers._fields]
            for number, *values in zip(columns["group"].tolist(), *split, strict=True):
                found[number] = Answers(*values)
        return found

    def add(self, number: int, answers: Answers) -> None:
        """Keeps what one group says, and saves now and then."""
        self._waiting[number] = answers
        if time.monotonic() - self._saved >= EVERY:
            self.save()

    def save(self) -> None:
        """Makes durable what was added since the last time."""
        self._saved = time.monotonic()
        if not self._waiting:
            return
        answers = list(self._waiting.values())
        columns = {name: np.concatenate([getattr(one, name) for one in answers]) for name in Answers._fields}
        columns["group"] = np.array(list(self._waiting), dtype=np.int64)
        columns["size"] = np.array([len(one.token) for one in answers], dtype=np.int64)
        self._parts.mkdir(parents=True, exist_ok=True)
        with store.publishing(self._parts / self._free_name()) as part:
            save_file(columns, part / "answers.safetensors")
        self._waiting.clear()

    def save_if_interrupted(self, error: type[BaseException] | None, *_: object) -> None:
        """How a `with` ends: where all went well, nothing needs to be gone on with."""
        if error:
            self.save()

    def _free_name(self) -> str:
        """One that no damaged part holds, and no other rank takes."""
        number = len(list(self._parts.glob(f"part-{self._rank}-*")))
        while (self._parts / f"part-{self._rank}-{number:06d}").exists():
            number += 1
        return f"part-{self._rank}-{number:06d}"
