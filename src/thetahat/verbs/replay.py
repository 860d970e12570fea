"""Any step of a run, made again bit for bit, and what it tells."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import numpy as np

from thetahat.core.config import pairs_between
from thetahat.core.errors import ConfigError
from thetahat.core.plain import as_json, counted
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.diagnosis.signals.probe import Layer
from thetahat.distribution.mesh import MeshConfig
from thetahat.distribution.world import World, join_world
from thetahat.run.blame.blame import Blame, blame
from thetahat.run.folder.files import step_of
from thetahat.run.replay.again import Again, make_again
from thetahat.run.replay.effects import Effect, effects
from thetahat.run.replay.parts import PartNorms, layers_before, norms_by_part
from thetahat.run.replay.record import read_record
from thetahat.run.replay.what_if import Change, Outcome, as_made, changed, check_ids, in_other_dtype, what_if

EXCERPT = 60  # letters, of a sequence
BEFORE, BEHIND = 48, 16  # letters beside a token
WORST = 20  # tokens that are told
TEXT_OF_NONE = "(end)"  # of a token without text


class WorstToken(NamedTuple):
    """A target that was among the least likely of its step."""

    id: str
    sequence: int  # its number in the step
    log_prob: float  # nats, before the update
    before: str  # text that the model read up to there
    token: str
    behind: str


@dataclass(frozen=True, slots=True)
class Replay:
    """A step that was made again, and what was asked of it."""

    again: Again
    effects: list[Effect]
    texts: list[str]  # how each sequence begins
    worst: list[WorstToken]
    parts: list[PartNorms]
    layers: list[Layer]
    blame: Blame | None  # where the step was not finite
    outcomes: list[Outcome]  # of the step as it was made, and otherwise
    elsewhere: list[str]  # what is different here from where the run began
    reasons: list[str]  # for which bits may differ though no hardware fails

    @property
    def is_reproduced(self) -> bool | None:
        """Whether all is, bit for bit, as the run wrote it down; None where it wrote nothing down."""
        return self.again.is_reproduced

    def verdict(self) -> str:
        """In one line."""
        again, step = self.again, self.again.report.step
        if not again.compared:
            return f"nothing was written down of step {step:,} that it could be compared with"
        if again.is_reproduced:
            return f"reproduced, bit for bit: {' and '.join(again.compared)}"
        first = again.differences[0]
        more = f" (and {len(again.differences) - 1:,} more)" if len(again.differences) > 1 else ""
        why = "; ".join(self.reasons) or "suspect hardware"
        return f"not reproduced: {why}. {first}{more}"

    def blamed(self) -> dict[str, Any] | None:
        """What made the step non-finite, with the text up to where it begins; None where it is finite."""
        if self.blame is None:
            return None
        tokenizer, culprits = self.again.prepared.tokenizer, list[dict[str, Any]]()
        for one in self.blame.culprits:
            fault, end = one.fault, None if one.fault.position is None else one.fault.position + 1
            text = tokenizer.decode(one.tokens[:end])
            text = text[:EXCERPT] if end is None else text[-EXCERPT:]
            culprits.append({"id": one.id, "rank": one.rank, **as_json(fault), "text": text})
        return {"what": str(self.blame), "parameters": list(self.blame.parameters), "sequences": culprits}

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        again, report = self.again, self.again.report
        beginning, shares = again.beginning, [one.share for one in self.effects]
        order = np.argsort(-np.array(shares), kind="stable").tolist()
        return {
            "run": str(again.record.folder),
            "step": report.step,
            "from": str(beginning.checkpoint or beginning.parent or "step 0"),
            "steps_made": again.num_made,
            "ranks": again.num_ranks,
            "reproduced": again.is_reproduced,
            "verdict": self.verdict(),
            "compared": again.compared,
            "differences": [one._asdict() for one in again.differences],
            "elsewhere": self.elsewhere,
            "notes": [*again.record.notes, *beginning.notes],
            "finite": again.is_finite,
            "skipped": report.step in again.record.skipped,
            "log_likelihood_per_token": report.total.mean().item(),
            "gradient_norm": report.gradient_norm.item(),
            "learning_rate_factor": report.learning_rate_factor,
            "num_targets": report.num_tokens,
            "sum_of_shares": float(sum(shares)) if shares else None,
            "sequences": [plain(self.effects[i]) | {"text": self.texts[i]} for i in order],
            "worst_tokens": [one._asdict() for one in self.worst],
            "parts": [as_json(one) | {"update_ratio": one.ratio} for one in self.parts],
            "layers": [one._asdict() for one in self.layers],
            "blame": self.blamed(),
            "what_if": self.outcomes,
        }


def replay(
    run: str,
    step: int | None = None,
    *,
    without: Sequence[str] = (),
    learning_rate_factor: float = 1.0,
    changes: Sequence[str] = (),
    to_checkpoint: bool = False,
) -> Replay:
    """Makes a step of a run again in memory, from the nearest checkpoint before it, and says what it did.

    Every step on the way is compared, bit for bit, with its line in metrics.jsonl, and the state with the checkpoint of
    the step, or with the next one if `to_checkpoint`. Nothing in the folder is changed. Without `step`: the step that
    ended the run with a value that is not finite, or else the last. The same step is also made in another dtype and, if
    asked, from the same state `without` the records of these ids, with all learning rates times a factor, and with the
    KEY=VALUE `changes`. A run of several ranks is made by one process, to the bit for two; under torchrun by as many.
    """
    if "@" in run and not Path(run).exists():
        raise ConfigError(f"{run} is a checkpoint, and a step is wanted", cure=f"{run.rpartition('@')[0]} --step N")
    record = read_record(Path(run))
    number, change = record.chosen(step), Change(tuple(without), learning_rate_factor, tuple(changes))
    changed(record.config, change)
    world = join_world(record.config.device)
    ranks = record.ranks(number)
    if world.size not in {1, ranks}:
        raise ConfigError(
            f"step {number} was made by {counted(ranks, 'rank')} with rows of their own, and these are {world.size}",
            cure="one process" if ranks == 1 else f"torchrun --nproc-per-node {ranks}, or one process",
        )
    again = make_again(record, number, world, to_checkpoint=to_checkpoint)
    world.leave()
    elsewhere = record.elsewhere(number, again.state.config)
    found = Replay(again, *([], [], [], [], []), None, [], elsewhere, _reasons(again, world, elsewhere))
    return _asked(found, change) if world.is_first else found


def _asked(found: Replay, change: Change) -> Replay:
    """What is asked of a step that was made again."""
    again, effects_of = found.again, list[Effect]()
    check_ids(again, change.without)
    parts, layers, guilty = norms_by_part(again), list[Layer](), None
    if not again.is_finite:
        divisor = again.state.config.objective.step_divisor(float(again.report.total.weight))
        step, again.state.step = again.state.step, again.start.step
        guilty = blame(again.state, again.batches, divisor)
        again.state.step = step
    else:
        layers = layers_before(again)
        if again.report.gradient_norm > 0:
            effects_of = effects(again.state, again.batches, again.start.parameters, again.report)
    outcomes = [as_made(again), in_other_dtype(again), *([what_if(again, change)] if change else [])]
    tokenizer, labels = again.prepared.tokenizer, again.prepared.labels
    texts = [excerpt(tokenizer, one) for one in effects_of]
    worst = worst_tokens(tokenizer, labels, effects_of)
    return Replay(again, effects_of, texts, worst, parts, layers, guilty, outcomes, found.elsewhere, found.reasons)


def _reasons(again: Again, world: World, elsewhere: list[str]) -> list[str]:
    """Why bits may differ though no hardware fails."""
    config, reasons = again.state.config, [f"made elsewhere ({'; '.join(elsewhere)})"] if elsewhere else []
    if again.num_ranks > 2 and world.size == 1:
        more = f"torchrun --nproc-per-node {again.num_ranks} -m thetahat replay"
        reasons.append(f"{again.num_ranks} ranks may add up in another order than one process: {more}")
    if why := _of_layout(again):
        reasons.append(f"{why}; {_in_its_layout(again)}")
    if config.device == "cuda" and not config.deterministic:
        reasons.append("kernels of a GPU add up in any order without deterministic=true")
    if any(action == "skip" for action in config.diagnosis.policies.values()) and again.record.notes:
        reasons.append("lines are missing which say whose update a policy left out")
    return reasons


def _of_layout(again: Again) -> str:
    """Why ranks that share rows, products or layers have other bits than one process that makes their step."""
    mesh, model = again.record.mesh(again.report.step), again.state.config.model
    if mesh.context > 1 and model.dropout > 0:
        return f"mesh.context={mesh.context}: each rank has drawn its own dropout, and one process draws another"
    for axis in ("context", "tensor"):
        if (number := getattr(mesh, axis)) > 1:
            return f"mesh.{axis}={number}: its ranks add up in another order than one process"
    if mesh.pipeline > 1 and model.ties_embeddings:
        return f"mesh.pipeline={mesh.pipeline}: its ends each add up a part of the tied table, and then both"
    return ""


def _in_its_layout(again: Again) -> str:
    """What to type to make the step in the layout in which it was made."""
    record, step, checkpoint = again.record, again.report.step, again.beginning.checkpoint
    size = int(record.machine(step).get("world_size", 1))
    at = f"@{step_of(checkpoint)}" if checkpoint else ""
    keys = " ".join(f"mesh.{pair}" for pair in pairs_between(record.mesh(step), MeshConfig()))
    words = f"--branch {quote(f'{record.folder}{at}')} {keys} --out DIR"
    return f"in its layout: torchrun --nproc-per-node {size} -m thetahat train {words}"


def plain(effect: Effect) -> dict[str, Any]:
    """What `--json` says of the effect on a sequence."""
    part = effect.part
    named = {"id": part.id, "source": part.source, "part": part.name, "sequence": effect.sequence}
    numbers = {"num_tokens": len(effect.targets), "weight": effect.weight, "share": effect.share}
    numbers |= {"gradient_norm": effect.gradient_norm, "dot": effect.dot}
    return named | numbers | {"before": effect.before, "after": effect.after}


def excerpt(tokenizer: Tokenizer, effect: Effect) -> str:
    """How the text of a sequence begins."""
    text = tokenizer.decode(effect.tokens[:EXCERPT]).strip()
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"


def worst_tokens(tokenizer: Tokenizer, labels: Sequence[str], found: Sequence[Effect]) -> list[WorstToken]:
    """The least likely targets of a step, the worst first, in their text."""
    each = [(nats, number, i) for number, one in enumerate(found) for i, nats in enumerate(one.log_probs)]
    return [_in_text(tokenizer, labels, found[number], place) for _, number, place in heapq.nsmallest(WORST, each)]


def _in_text(tokenizer: Tokenizer, labels: Sequence[str], effect: Effect, place: int) -> WorstToken:
    target, at = effect.targets[place], effect.places[place] + 1
    token = labels[target] if labels else tokenizer.decode([target]) or TEXT_OF_NONE
    before, behind = tokenizer.decode(effect.tokens[:at])[-BEFORE:], tokenizer.decode(effect.tokens[at + 1 :])
    return WorstToken(effect.part.id, effect.sequence, effect.log_probs[place], before, token, behind[:BEHIND])
