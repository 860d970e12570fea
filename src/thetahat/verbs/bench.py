"""How quick a training is on this machine: its ceilings, a config's own steps, their memory, and where time goes."""

import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from logging import getLogger
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace

from thetahat.core.batch import Batch
from thetahat.core.config import Config
from thetahat.core.errors import ConfigError, StoppedError
from thetahat.core.work.regions import region
from thetahat.distribution import heartbeat
from thetahat.distribution.world import World, join_world
from thetahat.model.build import LanguageModel
from thetahat.proof.speed.ceilings import COPY, SUM, joined, measure_once, narrower, shapes_of
from thetahat.proof.speed.found import Benched, Compared, Memory, Pace, machine_of, with_notes
from thetahat.proof.speed.kinds import STEP, Share, shares_of
from thetahat.proof.speed.living import Living
from thetahat.proof.speed.peer import Peer, check_peer, check_rows
from thetahat.proof.speed.read import NOTHING, as_read, counted_in, logits_of, pieces_of
from thetahat.proof.speed.workers import Within
from thetahat.run.base import resolved
from thetahat.run.config import RunConfig
from thetahat.run.cost.ceiling import wait_for
from thetahat.run.cost.operations import operations_of
from thetahat.run.diagnosis.needed import training_memory
from thetahat.run.diagnosis.watch import GoingBack
from thetahat.run.machine import set_up
from thetahat.run.prepare import check_layout
from thetahat.run.start import Running, start_or_resume
from thetahat.run.state import model_on_meta
from thetahat.run.train import Clock, make_step

WARM = 2  # steps before those that are measured, beside the first
PROFILED = 2  # steps behind them, under the profiler
ROUNDS = 3  # in which steps and ceilings take turns
logger = getLogger("thetahat")


class BenchConfig(Config, kw_only=True):
    """How a training is measured."""

    steps: int = 12
    """Steps that are measured, in three rounds."""
    trace: str = ""
    """A file for the trace of the profiled steps, which chrome://tracing and Perfetto show; empty: none."""

    peer: bool = False
    """Whether the same model is run as a plain loop over transformers, too."""

    def __post_init__(self) -> None:
        if self.steps < ROUNDS:
            raise ConfigError(f"steps={self.steps}", allowed=f"{ROUNDS} or more", cure="steps=12")


_AS_IT_IS = BenchConfig()


def bench(config: RunConfig, how: BenchConfig = _AS_IT_IS) -> Benched:
    """Trains a state that is thrown away on the data of a config, and says how quick and how large that is.

    The steps are the trainer's own, with all that watches over them. They take turns with products and copies, so that
    what other programs take is taken from both. Under torchrun every rank returns what the first has measured of its
    own products, and of the steps of all. Nothing is written but the cache, and the trace where one is asked for.
    """
    begun = time.perf_counter()
    config = resolved(replace(config, track=(), prompt=""))
    if how.peer:
        check_peer(config)
    check_layout(config)
    device, world = set_up(config), join_world(config.device, config.mesh)
    with ExitStack() as held:
        held.enter_context(heartbeat.naming_lost_ranks(config.heartbeat))
        folder = held.enter_context(_throw_away(world))
        run = start_or_resume(config, folder, device, world)
        assert run is not None
        held.callback(lambda: run.watch.close() if run.watch else None)
        preparing = time.perf_counter() - begun
        found = _Measuring(run, device).all(how, preparing)
        world.leave()
    return found


@contextmanager
def _throw_away(world: World) -> Generator[Path]:
    """A folder for the run that is thrown away, the same one for all ranks."""
    made = world.first_does(lambda: tempfile.mkdtemp(prefix="thetahat-bench-"))
    folder = Path(world.all_json({"folder": made or ""})[0]["folder"])
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


class _Measuring:
    """One run, measured."""

    def __init__(self, run: Running, device: torch.device) -> None:
        self.run, self.device, self.clock = run, device, Clock(run.state)
        self.config, self.world = run.state.config, run.world
        self.notes: list[str] = []

    def all(self, how: BenchConfig, preparing: float) -> Benched:
        """Everything, in turn."""
        number = self._room_for(how)
        first = self._step()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        for _ in range(WARM):
            self._step()
        batches = self._batches(self.run.state.step)
        model, (rounds, each, waited, begin) = self._on_meta(), self._rounds(number, batches)
        pace = self._pace(model, each, waited, begin)
        compared = self._compared(number, batches) if how.peer else None
        memory = self._memory(model, batches)
        shares = self._profiled(how.trace)
        ceilings = joined(rounds)
        ceiling = max(one.best for one in ceilings if one.what not in {COPY, SUM})
        if (advice := narrower(self.run.state, ceiling)) is not None:
            self.notes.append(advice)
        whole = pace.median * ceiling * self.world.size
        found = Benched(
            name=self.config.recipe,
            machine=machine_of(self.device, self.config),
            num_ranks=self.world.size,
            ceilings=ceilings,
            pace=pace,
            num_steps=number,
            ceiling=ceiling,
            utilisation=pace.flops / whole,
            with_update=(pace.flops + pace.update_flops) / whole,
            memory=memory,
            preparing=preparing,
            first_step=first,
            shares=shares,
            notes=(),
            peer=compared,
        )
        return with_notes(found, self.notes)

    def _room_for(self, how: BenchConfig) -> int:
        """The steps that can be measured, as the schedule has no more."""
        number, times, others = how.steps, 2 if how.peer else 1, 2 + WARM + PROFILED
        room = (self.run.state.num_steps - others) // times
        if room < ROUNDS:
            raise ConfigError(
                f"{self.run.state.num_steps} steps of training leave too few to measure",
                allowed=f"max_steps={times * ROUNDS + others} or more",
                cure=f"max_steps={times * number + others}",
            )
        if room < number:
            self.notes.append(f"the config has {self.run.state.num_steps} steps, so only {room} were measured")
        return min(room, number)

    def _step(self) -> float:
        """Seconds of the trainer's next step."""

        def one() -> None:
            with region(STEP):
                make_step(self.run, self.clock)
                wait_for(self.device)

        try:
            return self._timed(one)
        except GoingBack as found:
            raise StoppedError(f"an alarm would take this run back: {found}", cure="diagnosis.alarms=false") from None

    def _rounds(
        self, number: int, batches: Sequence[Batch]
    ) -> tuple[list[dict[str, float]], list[list[float]], list[float], int]:
        """What products reach, the seconds of steps in each round, and for how long they waited for data."""
        positions = max(one.inputs.tokens.numel() for one in batches)
        shapes = shapes_of(self._on_meta(), positions, max(logits_of([one]) for one in batches))
        begin, rounds, each, waited = self.run.state.step, [], [], []
        for place in range(ROUNDS):
            rounds.append(measure_once(self.run.state, shapes, self.world))
            each.append([])
            for _ in range(number // ROUNDS + (place < number % ROUNDS)):
                each[-1].append(self._step())
                waited.append(self.run.feed.waited)
        rounds.append(measure_once(self.run.state, shapes, self.world))
        return rounds, each, waited, begin

    def _batches(self, step: int) -> list[Batch]:
        return [one for one in self.run.prepared.batches(step, self.world) if not one.is_idle]

    def _on_meta(self) -> LanguageModel:
        prepared = self.run.prepared
        return model_on_meta(self.config, prepared.tokenizer.vocab_size, len(prepared.labels))

    def _pace(self, model: LanguageModel, rounds: list[list[float]], waited: list[float], begin: int) -> Pace:
        """Of all steps together; what they read is counted once more, of all ranks."""
        each = np.array([seconds for one in rounds for seconds in one])
        read, flops = NOTHING, 0.0
        for step in range(begin, begin + len(each)):
            batches = self._batches(step)
            if not batches:
                continue
            one = operations_of(model, as_read(self.config, batches), pieces_of(batches), num_logits=logits_of(batches))
            read = sum(map(counted_in, batches), start=read)
            flops += one.forward + one.backward
        update = len(each) * operations_of(model, self.config).update
        told = torch.tensor([read.positions, read.filled, read.targets, flops], dtype=torch.float64)
        positions, filled, targets, flops = self.world.sum(told).tolist()
        seconds = float(each.sum())
        low, median, high = np.quantile(each, [0.1, 0.5, 0.9]).tolist()
        whole = len(each) * median  # a step that another program holds up counts once
        return Pace(
            median=median,
            low=low,
            high=high,
            rounds=tuple(float(np.median(one)) for one in rounds),
            waited=float(np.median(waited)) if seconds else 0.0,
            targets_per_second=targets / whole,
            positions_per_second=positions / whole,
            padding=1 - filled / positions,
            flops=flops / len(each),
            update_flops=update / len(each),
        )

    def _compared(self, number: int, batches: Sequence[Batch]) -> Compared:
        """Steps of both, in turns; each other turn begins with the other one."""
        check_rows(batches)
        peer = Peer(self.run.state)
        ours, theirs = peer.check(self.run.state, batches[0])
        for _ in range(WARM):
            peer.step(batches)
        ratios, each = list[float](), list[float]()
        for turn in range(number):
            batches = self._batches(self.run.state.step)
            check_rows(batches)
            mine = self._step() if turn % 2 else None
            each.append(self._timed(partial(peer.step, batches)))
            ratios.append(each[-1] / (self._step() if mine is None else mine))
        low, ratio, high = np.quantile(ratios, [0.1, 0.5, 0.9]).tolist()
        family = peer.model.config.model_type
        return Compared(family, ours, theirs, float(np.median(each)), ratio, low, high, number)

    def _timed(self, work: Callable[[], object]) -> float:
        """Seconds of some work of the device."""
        wait_for(self.device)
        begun = time.perf_counter()
        work()
        wait_for(self.device)
        return time.perf_counter() - begun

    def _memory(self, model: LanguageModel, batches: Sequence[Batch]) -> Memory:
        """By the allocator of a GPU; on a CPU by the sizes of all tensors in one more step."""
        vocab_size, labels = self.run.prepared.tokenizer.vocab_size, len(self.run.prepared.labels)
        is_whole = self.world.size == 1
        said = training_memory(model, as_read(self.config, batches), vocab_size, labels).total if is_whole else None
        if self.device.type == "cuda":
            most = torch.cuda.max_memory_allocated(self.device)
            self._step()
            return Memory(most, said, "by the allocator")
        if self.config.compile or not is_whole:
            self._step()
            return Memory(None, said, "a CPU does not tell what compiled layers, or several ranks, allocate")
        state = self.run.state
        with Living() as living, self._within(partial(Living, living.tally)):
            living.note([*state.model.parameters(), *state.model.buffers(), *state.optimizer.state().values()])
            if state.average:
                living.note(state.average.tensors.values())
            self._step()
        return Memory(living.most, said, "the tensors that live at one time")

    @contextmanager
    def _within(self, context: Callable[[], AbstractContextManager[Any]]) -> Generator[None]:
        """Within it the threads of a step that read micro-batches do so within a context of their own."""
        state = self.run.state
        workers = state.workers
        state.workers = Within(workers, context)
        try:
            yield
        finally:
            state.workers = workers

    def _profiled(self, trace: str) -> tuple[Share, ...]:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if on_device := self.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        threads = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)  # pyright: ignore
        with (
            self._within(partial(region, STEP)),
            torch.profiler.profile(activities=activities, experimental_config=threads) as profile,
        ):
            seconds = [self._step() for _ in range(PROFILED)]
        if trace and self.world.is_first:
            profile.export_chrome_trace(trace)
        events = profile.events() or []
        return shares_of(events, PROFILED, sum(seconds) / PROFILED, on_device=on_device)
