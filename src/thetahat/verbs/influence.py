"""The effect of the step after a checkpoint on each sequence of its batch, and the account of a run's ledger."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from msgspec.structs import replace

from thetahat.core import store
from thetahat.core.errors import ConfigError
from thetahat.distribution.world import World
from thetahat.ledger.contribution import account, deciles, grouped
from thetahat.ledger.ledger import SCHEMA, write_columns
from thetahat.ledger.policy import POLICY
from thetahat.ledger.run_ledger import part_files
from thetahat.run.config import RunConfig
from thetahat.run.folder.config import read_config
from thetahat.run.folder.files import all_checkpoints, read_progress, step_of
from thetahat.run.folder.find import find_checkpoint
from thetahat.run.log.ledger import training_policy
from thetahat.run.machine import resolve, set_up
from thetahat.run.prepare import Prepared, prepare
from thetahat.run.replay.again import micro_batches
from thetahat.run.replay.effects import Effect, dtype_of_sums, effects, parameters_of
from thetahat.run.start import standing_at
from thetahat.run.state import State
from thetahat.run.step import StepReport, step
from thetahat.verbs.ancestry import ledger_with_parents
from thetahat.verbs.replay import excerpt, plain


@dataclass(frozen=True, slots=True)
class Influence:
    """One step, sequence by sequence, and the run so far."""

    checkpoint: Path
    report: StepReport
    effects: list[Effect]
    texts: list[str]  # how each sequence begins
    account: dict[str, Any] | None  # of the ledger of the run and its parents; None where it has none

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints: the step and its groups, each sequence from the largest share down, the account."""
        shares = np.array([one.share for one in self.effects])
        order = np.argsort(-shares, kind="stable").tolist()
        return {
            "checkpoint": str(self.checkpoint),
            "step": self.report.step,
            "log_likelihood_per_token": self.report.total.mean().item(),
            "gradient_norm": self.report.gradient_norm.item(),
            "sum_of_shares": float(shares.sum()),
            "sequences": [plain(self.effects[i]) | {"text": self.texts[i]} for i in order],
            "sources": self._groups([one.part.source for one in self.effects]),
            "lengths": self._groups(deciles([len(one.targets) for one in self.effects])),
            "ledger": self.account,
        }

    def _groups(self, names: list[str]) -> list[dict[str, Any]]:
        made_of = {
            "share": np.array([one.share for one in self.effects]),
            "gain": np.array([one.after - one.before for one in self.effects]),
            "tokens": np.array([len(one.targets) for one in self.effects]),
        }
        return grouped(names, made_of)


def influence(name: str, *, out: Path | None = None) -> Influence:
    """Makes the step that comes after the checkpoint RUN@STEP in memory; nothing of the run is changed.

    The batch is the one that the run reads, and so is the update: to the bit on the same machine and with one rank.
    Without @STEP: the newest checkpoint that has a step after it.
    """
    if out:
        store.check_target(out)
    folder = _with_a_step_after_it(name)
    store.verify(folder)
    prepared, state = _loaded(folder)
    batches, start = micro_batches(prepared, state.step, 1), parameters_of(state)
    report = step(state, [micro.batch for micro in batches], World())
    found = effects(state, batches, start, report)
    if out:
        _write(out, found, report, prepared)
    run = folder.parent.parent
    rows = ledger_with_parents(run, prepared.config) if part_files(run) else None
    told = account(rows, prepared.config.objective) if rows is not None and len(rows) else None
    return Influence(folder, report, found, [excerpt(prepared.tokenizer, one) for one in found], told)


def _with_a_step_after_it(name: str) -> Path:
    folder = find_checkpoint(name, with_optimizer=True)
    progress = read_progress(folder)
    if progress["step"] < progress["num_steps"]:
        return folder
    earlier = [one for one in all_checkpoints(folder.parent.parent) if step_of(one) < progress["num_steps"]]
    if not earlier or "@" in name:
        raise ConfigError(
            f"{folder} is the end of its run: no step comes after it",
            allowed=", ".join(f"RUN@{step_of(one)}" for one in earlier) or "a run with checkpoint.every=N",
        )
    return earlier[-1]


def _loaded(folder: Path) -> tuple[Prepared, State]:
    """The data and the state of a run at a checkpoint."""
    config: RunConfig = resolve(read_config(folder))
    device = set_up(config)
    return standing_at(prepare(config, folder, World()), device, folder, None)


EXTRA = (
    pa.field("sequence", pa.int64(), nullable=False),
    pa.field("log_prob_after", pa.float64(), nullable=False),
    pa.field("share", pa.float64(), nullable=False),
)


def _write(out: Path, found: list[Effect], report: StepReport, prepared: Prepared) -> None:
    corpus, config = prepared.train, prepared.config
    digests = corpus.digests(np.array([one.part.number for one in found]))
    rows = [
        {
            **{name: getattr(one.part, name) for name in ("id", "document", "source", "role")},
            "part": one.part.name,
            "num_tokens": len(one.targets),
            "num_bytes": one.num_bytes,
            "context_length": config.data.context,
            "tokens_cut": 0,
            "log_prob": one.before,
            "weight": one.weight,
            "step": report.step,
            "digest": digest,
            "blocks": [],
            "sequence": one.sequence,
            "log_prob_after": one.after,
            "share": one.share,
        }
        for one, digest in zip(found, digests, strict=True)
    ]
    table = pa.Table.from_pylist(rows, schema=pa.schema([*SCHEMA, *EXTRA]))
    policy = replace(training_policy(config, "one step"), dtype=dtype_of_sums(config.dtype))
    write_columns(out, table, {"data": corpus.fingerprint, "unit": "nats", POLICY: policy.to_json()})
