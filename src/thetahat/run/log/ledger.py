"""The ledger of a training run: for each step and part of a record, its likelihood before the update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from thetahat.core import store
from thetahat.core.batch import Batch
from thetahat.core.parts import Parts
from thetahat.data.corpus.corpus import Corpus
from thetahat.distribution.world import World
from thetahat.ledger.ledger import write_columns
from thetahat.ledger.policy import POLICY, Policy
from thetahat.ledger.run_ledger import LEDGER, last_step, part_files, part_name
from thetahat.objective.config import ObjectiveConfig
from thetahat.objective.log_prob import Told
from thetahat.objective.objective import Note
from thetahat.objective.weights import part_weights
from thetahat.run.config import RunConfig
from thetahat.run.log.entries import NUM_TOKENS, NUMBER, STEP, Entries, Waiting, columns_of, joined, merged

MOST_HELD = {"cpu": 0, "cuda": 32 * 2**20}  # bytes of sums that are kept on the device
MOST_WAITING = 2**26  # positions since the last part file; with more, another is written between two checkpoints

logger = getLogger("thetahat")


@dataclass(frozen=True, slots=True)
class _Held:
    """The sums of one micro-batch, on the device that computed them."""

    step: int
    parts: Parts
    sums: Float[Tensor, "3 n"]  # targets, bytes and nats of each part; the last column is for tokens of weight 0
    tokens: tuple[Tensor, Tensor] | None = None  # part and nats of each target, if they are kept


@final
class TrainingLedger:
    """Sums each step's log-probabilities by part, and writes them as a part file at each checkpoint.

    Training does not read it. The sums of a step stay on a GPU until they are written, or until there are MOST_HELD
    bytes of them. Part files that a checkpoint names are complete before the checkpoint appears.
    """

    def __init__(self, folder: Path, config: RunConfig, corpus: Corpus, listed: Mapping[str, str]) -> None:
        self.files = dict(listed)  # name and SHA-256 of each part file; the first rank's are those that count
        self._folder = folder / LEDGER
        self._config = config
        self._corpus = corpus
        self._held: list[_Held] = []
        self._num_held = 0  # bytes
        self._waiting = Waiting()
        self._written = max((last_step(name) for name in listed), default=config.first_step)

    def settle(self) -> None:
        """Deletes files that the checkpoint does not list, on resume and on the first rank: their steps are made again.

        Files that it lists and that are missing or damaged are logged, and not replaced.
        """
        if self._folder.is_dir():
            store.remove_partial(self._folder)
        for path in part_files(self._folder.parent):
            if path.name not in self.files:
                path.unlink()
        for name, digest in list(self.files.items()):
            path, lost = self._folder / name, "the rows of its steps are lost"
            if not path.is_file():
                logger.warning("%s is missing: %s", path, lost)
            elif store.digest_file(path) != digest:
                aside = path.with_name(f"{name}.damaged")
                path.rename(aside)
                logger.warning("%s is damaged, and is now %s: %s", path, aside.name, lost)
            else:
                continue
            del self.files[name]

    def note(self, step: int) -> Note | None:
        """The function that records the micro-batches of a step; None if this step is not recorded."""
        every = self._config.ledger.every
        return partial(self._note, step) if every and step % every == 0 else None

    def _note(self, step: int, batch: Batch, told: Told) -> None:
        """Sums one micro-batch by part; the host does not wait for the device."""
        part = torch.where(batch.weights != 0, batch.part, len(batch.parts)).flatten()
        sizes = batch.num_bytes.flatten()
        if batch.supervised is not None:
            part, sizes = part[batch.supervised], sizes[batch.supervised]
        sums = torch.zeros(3, len(batch.parts) + 1, dtype=torch.float64, device=part.device)
        count = torch.ones(len(part), dtype=torch.float64, device=part.device)
        for row, values in zip(sums, (count, sizes.to(torch.float64), told.log_prob.to(torch.float64)), strict=True):
            row.index_add_(0, part, values)
        tokens = (part, told.log_prob.to(torch.float32)) if self._config.ledger.tokens else None
        self._held.append(_Held(step, batch.parts, sums, tokens))
        self._num_held += sum(tensor.nbytes for tensor in (sums, *(tokens or ())))
        if self._num_held > MOST_HELD[part.device.type]:
            self._to_host()

    def forget(self, step: int) -> None:
        """Drops what was noted of later steps than this one: they were not made."""
        self._to_host()
        noted, self._waiting = self._waiting.entries, Waiting()
        is_kept = noted.numbers[:, STEP] <= step
        tokens = noted.tokens
        if len(tokens):
            tokens = tokens[np.repeat(is_kept, noted.numbers[:, NUM_TOKENS].astype(np.int64))]
        self._waiting.append(Entries(noted.numbers[is_kept], tokens))

    def is_full(self, step: int) -> bool:
        """Whether the rows should be written before the next checkpoint; the same on all ranks."""
        positions = self._config.batch_size * self._config.data.context
        return (step - self._written) * positions >= MOST_WAITING

    def write(self, step: int, world: World) -> None:
        """Writes a part file with all rows since the last one. All ranks call this together, before a checkpoint."""
        every = self._config.ledger.every
        if not every or step // every == self._written // every:
            return
        self._to_host()
        mine = self._waiting.entries
        numbers, tokens = (world.gather(torch.from_numpy(values)) for values in (mine.numbers, mine.tokens))
        everyones = [Entries(*(one.numpy() for one in pair)) for pair in zip(numbers, tokens, strict=True)]
        world.first_does(lambda: self._publish(merged(joined(everyones)), step))
        self._waiting, self._written = Waiting(), step

    def _publish(self, entries: Entries, step: int) -> None:
        name = part_name(self._written + 1, step)
        config = self._config
        columns = columns_of(entries, self._corpus, config.data.context, with_tokens=config.ledger.tokens)
        write_columns(self._folder / name, columns, self._metadata(step))
        self.files[name] = store.digest_file(self._folder / name)

    def _metadata(self, step: int) -> dict[str, str]:
        config = self._config
        return {
            "steps": f"{self._written + 1}-{step}",
            "every": str(config.ledger.every),
            "recipe": config.recipe,
            "data": self._corpus.fingerprint,
            POLICY: training_policy(config, "training").to_json(),
            "unit": "nats",
        }

    def _to_host(self) -> None:
        """Turns the sums into rows, with one copy from the device for each kind of tensor."""
        held, self._held, self._num_held = self._held, [], 0
        if held:
            known = np.concatenate([_known(one, self._config.objective) for one in held])
            sums = torch.cat([one.sums for one in held], 1).cpu().numpy().T
            has_targets = (known[:, NUMBER] >= 0) & (sums[:, 0] > 0)
            numbers = np.concatenate([known, sums], 1)[has_targets]
            self._waiting.append(Entries(numbers, _tokens(held) if self._config.ledger.tokens else _NO_TOKENS))


def training_policy(config: RunConfig, during: Literal["training", "one step"]) -> Policy:
    """The policy of ledger rows that come from training."""
    return Policy(
        context=config.data.context,
        stride=config.data.context,
        batch_size=config.micro_batch_size or config.batch_size,
        dtype=config.dtype,
        deterministic=config.deterministic,
        factorization=config.objective.factorization,
        during=during,
        normalization=config.objective.normalization,
    )


_NO_TOKENS = np.empty(0, np.float32)


def _known(held: _Held, objective: ObjectiveConfig) -> Float64[np.ndarray, "n 3"]:
    """Step, number and weight of each part; the last row is for tokens of weight 0."""
    number = np.append(held.parts.number.numpy(), -1).astype(np.float64)
    weight = np.append(part_weights(held.parts, objective).numpy(), 0.0)
    return np.stack([np.full(len(number), float(held.step)), number, weight], 1)


def _tokens(held: Sequence[_Held]) -> Float32[np.ndarray, " N"]:
    """The log-probabilities of the targets, part by part, in the order in which they were read."""
    kept = [one.tokens for one in held if one.tokens]
    first = np.cumsum([0, *(len(one.parts) + 1 for one in held)])
    part = torch.cat([part + int(start) for (part, _), start in zip(kept, first[:-1], strict=True)]).cpu().numpy()
    order = np.argsort(part, kind="stable")
    order = order[~np.isin(part[order], first[1:] - 1)]
    return torch.cat([log_probs for _, log_probs in kept]).cpu().numpy()[order]
