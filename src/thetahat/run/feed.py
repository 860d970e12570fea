"""Prepares the batches of the next step while the device computes this one."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

from torch import Tensor

from thetahat.core.batch import Batch
from thetahat.distribution import heartbeat
from thetahat.distribution.world import World
from thetahat.run.prepare import Prepared


@dataclass(frozen=True, slots=True)
class _Fed:
    step: int
    batches: list[Batch]
    fingerprint: str


@final
class Feed:
    """The batches of each step. They depend on the step alone, so preparing them early changes nothing."""

    def __init__(self, prepared: Prepared, world: World, *, ahead: bool) -> None:
        self._prepared = prepared
        self._world = world
        self._thread = ThreadPoolExecutor(1, "feed") if ahead else None
        self._now: _Fed | None = None
        self._next: Future[_Fed] | None = None
        self.waited = 0.0  # seconds, for the batches of the last step

    def batches(self, step: int) -> list[Batch]:
        """The micro-batches of this rank for the update after `step` updates."""
        heartbeat.at("data", step + 1)
        began = time.perf_counter()
        self._now = fed = self._take(step)
        self.waited = time.perf_counter() - began
        if self._thread and step + 1 < self._prepared.num_steps:
            self._next = self._thread.submit(self._make, step + 1)
        return fed.batches

    def fingerprint(self, step: int) -> str:
        """A digest of the sequences and tokens of the whole global batch, over all ranks."""
        if self._now and self._now.step == step:
            return self._now.fingerprint
        return self._prepared.fingerprint(step)

    def _take(self, step: int) -> _Fed:
        made = self._next.result() if self._next else None
        return made if made and made.step == step else self._make(step)

    def _make(self, step: int) -> _Fed:
        batches = self._prepared.batches(step, self._world)
        if self._thread:  # copies from pinned memory overlap with the device's work
            batches = [batch.map(Tensor.pin_memory) for batch in batches]
        return _Fed(step, batches, self._prepared.fingerprint(step) if self._world.is_first else "")
