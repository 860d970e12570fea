"""What a finished run came to: its size, what it learned from, its held-out loss, and what these depend on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thetahat.core.config import kind_of, to_plain
from thetahat.core.errors import ConfigError, ModelError
from thetahat.data.tokens.tokenizer import TOKENIZER, load_tokenizer
from thetahat.model.size import num_parameters
from thetahat.run.config import RunConfig
from thetahat.run.folder.config import read_config
from thetahat.run.folder.files import all_checkpoints, is_run, read_progress
from thetahat.run.log.history import read_metrics

LOSS = "held_out_nats_per_token"
_SHOWN = 12  # characters of a digest


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run."""

    run: str  # its folder
    num_parameters: int  # N, tables of tokens included
    tokens: int  # D: targets that it learned from
    loss: float  # nats per token of all that is held out, after the last step
    facts: Mapping[str, str]  # what a loss is comparable by, a line each

    @property
    def flops(self) -> float:
        """C = 6 N D, the convention of scaling laws."""
        return 6.0 * self.num_parameters * self.tokens


def read_trained(folder: Path) -> Trained:
    """What can be read of a run without loading it.

    Raises ModelError for a folder that is none of a run, or damaged, and ConfigError for a run that has not ended, has
    no held-out loss, or began with the parameters of another.
    """
    if not is_run(folder):
        raise ModelError(f"{folder} is no run folder", allowed="a folder that thetahat train made")
    config, checkpoints = read_config(folder), all_checkpoints(folder)
    progress = read_progress(checkpoints[-1]) if checkpoints else {"step": 0, "num_steps": config.max_steps}
    step, num_steps = progress["step"], progress["num_steps"]
    ended = step == num_steps or (config.max_tokens is not None and progress.get("tokens", 0) >= config.max_tokens)
    if not ended:
        raise ConfigError(
            f"{folder} has made {step} of its {num_steps} steps",
            allowed="finished runs: a loss in the middle of a schedule is not that of a shorter run",
            cure=f"thetahat train {folder}, or leave it out",
        )
    loss = read_metrics(folder).evaluations.get(step, {}).get(LOSS)
    if not isinstance(loss, float):
        raise ConfigError(
            f"{folder} has no held-out loss per token after its last step",
            allowed="runs with data.held_out, evaluation.final=true and tokens to predict",
        )
    if config.base or config.parent:
        raise ConfigError(
            f"{folder} went on from {config.base or (config.parent and config.parent.run)}",
            allowed="runs from the beginning",
            cure="leave it out",
        )
    vocab_size = load_tokenizer(folder / TOKENIZER).vocab_size
    facts = _facts(config, progress, folder, vocab_size)
    return Trained(str(folder), num_parameters(config.model, vocab_size), progress["tokens"], loss, facts)


def _facts(config: RunConfig, progress: Mapping[str, Any], folder: Path, vocab_size: int) -> dict[str, str]:
    """What two runs must have in common for their losses to be of one law."""
    train, held_out = [*progress["data"], "none"][:2]
    tokenizer = hashlib.sha256((folder / TOKENIZER).read_bytes()).hexdigest()
    evaluation = {name: getattr(config.evaluation, name) for name in ("max_documents", "stride", "ema", "passes")}
    return {
        "model.kind": kind_of(config.model),
        "tokenizer": f"{tokenizer[:_SHOWN]}, vocabulary {vocab_size}",
        "training data": f"{config.data.train} ({train[:_SHOWN]})",
        "held-out data": f"{config.data.held_out} ({held_out[:_SHOWN]})",
        "data.context": str(config.data.context),
        "objective": str(to_plain(config.objective)),
        "evaluation": str({name: value for name, value in evaluation.items() if value is not None}),
    }


def refuse_unlike(runs: list[Trained]) -> None:
    """Raises ConfigError, with what differs, unless all runs learned from and were scored on the same, in one way."""
    first = runs[0]
    for other in runs[1:]:
        differing = [name for name, value in first.facts.items() if other.facts[name] != value]
        if differing:
            lines = [f"{name}: {first.facts[name]} -> {other.facts[name]}" for name in differing]
            raise ConfigError(
                f"{other.run} is not comparable with {first.run}: {'; '.join(lines)}",
                allowed="runs that differ in size, steps, batch and rates, and in nothing that the loss is measured by",
                cure=f"leave {other.run} out",
            )
