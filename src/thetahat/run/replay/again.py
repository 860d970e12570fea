"""Makes a step of a run again from the nearest checkpoint before it, and compares it with what the run wrote down."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from msgspec.structs import replace
from torch import Tensor

from thetahat.core.work.phases import phase
from thetahat.data.tokens.tokenizer import TOKENIZER
from thetahat.distribution.in_turn import InTurn
from thetahat.distribution.pipeline.alone import draw_as_stages
from thetahat.distribution.world import MicroBatch, World
from thetahat.run.config import RunConfig
from thetahat.run.folder.checkpoint import saved_parameters
from thetahat.run.folder.config import read_config
from thetahat.run.folder.files import AVERAGE, MODEL, OPTIMIZER, is_there, step_of
from thetahat.run.folder.tensors import load_tensors
from thetahat.run.log.metrics import TIMES
from thetahat.run.log.report import step_line
from thetahat.run.machine import resolve, set_up
from thetahat.run.prepare import Prepared, prepare
from thetahat.run.replay.effects import assign, parameters_of
from thetahat.run.replay.record import Beginning, Record, beginning_of, checkpoint_after, checkpoint_of
from thetahat.run.start import standing_at
from thetahat.run.state import State
from thetahat.run.step import Measured, StepReport, Verdict, step as make_step


class Difference(NamedTuple):
    """What is not, bit for bit, as the run wrote it down."""

    step: int
    what: str  # a field of metrics.jsonl, a tensor of a checkpoint, or `finite`
    then: Any
    now: Any

    def __str__(self) -> str:
        """In one line."""
        return f"step {self.step}: {self.what} was {self.then}, and is {self.now}"


@final
class AsWritten:
    """Leaves out the updates that the run has left out, and what is not finite."""

    def __init__(self, skipped: frozenset[int]) -> None:
        self._skipped = skipped
        self.is_finite = True  # the last step

    def judge(self, measured: Measured) -> Verdict:
        """What the run decided; a policy is not asked again."""
        self.is_finite = bool(torch.isfinite(measured.gradient.norm + measured.total.log_prob))
        return "update" if self.is_finite and measured.step not in self._skipped else "skip"


@dataclass(frozen=True, slots=True)
class Kept:
    """What a step changes, copied."""

    step: int
    tokens: int
    parameters: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor | None]

    @staticmethod
    def of(state: State) -> "Kept":
        """A copy of it; gradients are replaced by the next step, not changed."""
        optimizer = {name: slot.clone() for name, slot in state.optimizer.state().items()}
        gradients = {name: one.grad for name, one in state.model.named_parameters()}
        return Kept(state.step, state.tokens, parameters_of(state), optimizer, gradients)

    def put_back(self, state: State) -> None:
        """Makes the state what it was."""
        state.step, state.tokens = self.step, self.tokens
        assign(state, self.parameters)
        state.optimizer.load_state(self.optimizer)
        for name, parameter in state.model.named_parameters():
            parameter.grad = self.gradients[name]


@dataclass(slots=True)
class Again:
    """A step that was made again, in memory."""

    record: Record
    beginning: Beginning
    prepared: Prepared
    state: State  # after the step
    start: Kept  # before it
    report: StepReport
    is_finite: bool
    batches: list[MicroBatch]  # of all ranks
    num_ranks: int  # that made the step
    num_made: int  # steps that were made again for it
    compared: list[str] = field(default_factory=list[str])  # what was written down of them
    differences: list[Difference] = field(default_factory=list[Difference])

    @property
    def is_reproduced(self) -> bool | None:
        """Whether all is, bit for bit, as the run wrote it down; None where it wrote nothing down."""
        return not self.differences if self.compared else None


@dataclass(slots=True)
class _Making:
    """Goes on, step by step."""

    record: Record
    prepared: Prepared
    state: State
    world: World
    num_ranks: int
    judge: AsWritten
    num_compared: int = 0
    differences: list[Difference] = field(default_factory=list[Difference])

    def one(self) -> StepReport:
        """One step, compared with its line in metrics.jsonl."""
        state, prepared = self.state, self.prepared
        with phase(f"making step {state.step + 1:,} again"):
            if self.world.size > 1:
                done = make_step(state, prepared.batches(state.step, self.world), self.world, judge=self.judge)
            else:
                of_ranks = [prepared.batches(state.step, World(rank, self.num_ranks)) for rank in range(self.num_ranks)]
                in_turn = InTurn([len(batches) for batches in of_ranks], list(state.model.parameters()))
                done = make_step(state, [one for batches in of_ranks for one in batches], in_turn, judge=self.judge)
        if self.world.is_first:
            self._compare(done)
        return done

    def until(self, step: int) -> None:
        """Makes all steps up to this one."""
        while self.state.step < step:
            self.one()

    def _compare(self, done: StepReport) -> None:
        number, record = done.step, self.record
        then: dict[str, Any] = dict(record.steps.get(number, {}))
        read = self.prepared.sources(number)
        batch = self.prepared.fingerprint(number - 1)
        now = step_line(done, self.state, read, batch=batch, seconds=1.0, waited=0.0)
        shared = [name for name in now if name in then and name not in TIMES]
        pairs = [(name, then[name], now[name]) for name in shared]
        if not then and number in record.failed:  # it ended the run
            pairs = [("finite", False, self.judge.is_finite)]
        self.num_compared += bool(pairs)
        self.differences += [Difference(number, *pair) for pair in pairs if pair[1] != pair[2]]


def make_again(record: Record, step: int, world: World, *, to_checkpoint: bool = False) -> Again:
    """Makes the step `step` again, as the run did: on one process in place of all ranks, or on all of them.

    Nothing in the folder is changed. Every step that is made on the way is compared with its line in metrics.jsonl, and
    the state with the checkpoint of the step; `to_checkpoint` also makes the steps up to the next one, and compares it.
    """
    beginning, num_ranks = beginning_of(record, step), record.ranks(step)
    device = set_up(config := _here(read_config(beginning.checkpoint) if beginning.checkpoint else record.config))
    prepared, state = standing_at(
        prepare(config, _with_tokenizer(record, beginning), world), device, beginning.checkpoint, beginning.parent
    )
    if (mesh := record.mesh(step)).pipeline > 1 and config.model.dropout > 0:
        draw_as_stages(state.model, mesh.pipeline * mesh.turns)
    first, making = state.step, _Making(record, prepared, state, world, num_ranks, AsWritten(record.skipped))
    making.until(step - 1)
    start = Kept.of(state)
    report = making.one()
    is_finite = making.judge.is_finite
    checkpoint = checkpoint_after(record, step) if to_checkpoint else checkpoint_of(record, step)
    compared, end = list[str](), Kept.of(state) if to_checkpoint else None
    if checkpoint:
        making.until(step_of(checkpoint))
        compared.append(f"every tensor of {checkpoint.name}")
        making.differences += differences_from(checkpoint, state)
    if making.num_compared:
        compared.insert(0, f"{making.num_compared:,} of {state.step - first:,} steps in metrics.jsonl")
    if end:
        end.put_back(state)
    batches = micro_batches(prepared, step - 1, num_ranks)
    made = Again(record, beginning, prepared, state, start, report, is_finite, batches, num_ranks, step - first)
    made.compared, made.differences = compared, making.differences
    return made


def micro_batches(prepared: Prepared, step: int, num_ranks: int) -> list[MicroBatch]:
    """The micro-batches of all ranks for the update after `step` updates."""
    return [
        MicroBatch(rank, index, batch)
        for rank in range(num_ranks)
        for index, batch in enumerate(prepared.batches(step, World(rank, num_ranks)))
    ]


def _here(config: RunConfig) -> RunConfig:
    """The config on this machine: on the CPU, where there is no GPU."""
    is_absent = config.device == "cuda" and not torch.cuda.is_available()
    return resolve(replace(config, device="cpu") if is_absent else config)


def _with_tokenizer(record: Record, beginning: Beginning) -> Path | None:
    """A folder that has the tokenizer of the run, so that none is written; None: it is made in memory."""
    folders = [beginning.checkpoint, beginning.parent, record.folder]
    return next((folder for folder in folders if folder and (folder / TOKENIZER).is_file()), None)


def differences_from(checkpoint: Path, state: State) -> list[Difference]:
    """The first tensor of the parameters, of the optimizer and of the average that is not to the bit a checkpoint's."""
    found = list[Difference]()
    average = state.average.tensors if state.average and is_there(checkpoint / AVERAGE) else {}
    files = (MODEL, saved_parameters(state.model)), (OPTIMIZER, state.optimizer.state()), (AVERAGE, average)
    for name, ours in files if average else files[:2]:
        theirs = load_tensors(checkpoint / name)
        odd = [key for key, one in ours.items() if key not in theirs or not _same_bits(one, theirs[key])]
        if odd:
            of = "the average of " if name == AVERAGE else ""
            then = f"the same in {len(ours) - len(odd)} of {len(ours)} tensors"
            found.append(Difference(step_of(checkpoint), f"{of}{odd[0]} of {checkpoint.name}", then, "another here"))
    return found


def _same_bits(ours: Tensor, theirs: Tensor) -> bool:
    one, other = (tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (ours, theirs))
    return one.shape == other.shape and bool((one == other).all())
