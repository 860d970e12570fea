"""Ranks tell each other where they are, so that one that is lost or hangs is named, and all end soon after it.

Each rank has two threads. One writes a sign into the store of torch.distributed every second and reads those of the
next rank and of rank 0 (rank 0: of all). The other judges by its own clock, since a store that is lost may not answer
at all; then it ends the process with `EXIT_CODE`, as a collective that hangs cannot be broken off.
"""

import atexit
import json
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import timedelta
from logging import getLogger
from typing import final

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from thetahat.core.errors import LostRankError
from thetahat.core.work.phases import current
from thetahat.distribution.elastic import tell_launcher
from thetahat.distribution.limits import HeartbeatConfig
from thetahat.distribution.verdict import BEAT, HURRY, Heard, Judge, Pace, Sign

PATIENT = timedelta(days=30)  # for collectives: who waits in one is ended by the threads, by far sooner
REASON, HURRIED = "reason", "hurried"  # keys of the store
CURE = "the same command again goes on from the newest checkpoint; torchrun --max-restarts 3 does so by itself"
_OF_A_COLLECTIVE = re.compile(r"gloo|nccl|c10d|process ?group|connection (closed|reset)|broken pipe|timed out", re.I)
logger = getLogger("thetahat")


@final
class Heart:
    """The signs of one rank, and what it hears of the others."""

    def __init__(self, rank: int, size: int) -> None:
        self.sign = Sign(rank, socket.gethostname())
        self.limits = HeartbeatConfig()
        self._watched = list(range(size)) if rank == 0 else sorted({0, (rank + 1) % size})
        self._has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._heard, self._proposed, self._complaint, self.reason = Heard(), "", "", ""
        self._step, self._stepped = 0, -1  # where it is, and the last one that it began
        self._store = _connected()
        self._key = f"thetahat/{_agreed_number(rank)}"  # of this start: an earlier one may have left its keys
        self._set(str(rank), json.dumps(asdict(self.sign)))
        if rank == 0:
            self._set(REASON, "")
            self._set(HURRIED, "")
        dist.barrier()
        self._is_over, self._waits, self._decided = threading.Event(), threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._talk, self._judge)]
        for thread in self._threads:
            thread.start()

    def at(self, phase: str, step: int | None, pace: Pace) -> None:
        """Where the rank is from now on."""
        self._step = self._step if step is None else step
        is_next = pace == "stall" and self._step != self._stepped
        self._stepped = self._step if is_next else self._stepped
        where, sign = f"in step {self._step} ({phase})", self.sign
        more = {"moves": sign.moves + 1, "begun": sign.begun + 1, "steps": sign.steps + is_next}
        self.sign = replace(sign, where=where, pace=pace, **more)

    def moves(self) -> None:
        """Says that the rank has come on."""
        self.sign = replace(self.sign, moves=self.sign.moves + 1)

    def ends(self, error: str) -> None:
        """Says with which error the rank ends; the threads go on until the process does."""
        self.sign = replace(self.sign, ended=error)

    def verdict(self, error: Exception) -> LostRankError:
        """Why a collective has failed, as the ranks agree within some seconds."""
        self._complaint = str(error).partition("\n")[0]
        self._waits.set()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of torchrun, which has seen the other end
        self._decided.wait(2 * HURRY + 5 * BEAT)
        return LostRankError(self.reason or self._complaint, cure=CURE)

    def leave(self) -> None:
        """Ends the threads; what they do in the store would crash the interpreter when it closes."""
        if not self.sign.ended:
            self.sign = replace(self.sign, has_left=True)
        self._is_over.set()
        for thread in self._threads:
            thread.join(3 * BEAT)
        if self.reason:
            self._linger()

    def _talk(self) -> None:
        while not self._heard.is_broken:
            is_last = self._is_over.wait(BEAT)
            try:
                self._round()
            except RuntimeError:  # of the store
                self._heard = replace(self._heard, is_broken=True)
            if is_last:
                return

    def _round(self) -> None:
        sign = replace(self.sign, beat=self._heard.rounds)
        if sign.pace == "preparation":
            phase = current()
            sign = replace(sign, where=f"in the preparation{f' ({phase.name})' if phase else ''}")
        self._set(str(sign.rank), json.dumps(asdict(sign)))
        if self._complaint:
            self._set(HURRIED, "yes")
        reason = self._store.compare_set(f"{self._key}/{REASON}", "", self._proposed) if self._proposed else b""
        names = [f"{self._key}/{name}" for name in (REASON, HURRIED, *self._watched)]
        agreed, hurried, *signs = (bytes(value).decode() for value in self._store.multi_get(names))
        told = {rank: Sign(**json.loads(one)) for rank, one in zip(self._watched, signs, strict=True)}
        rounds = self._heard.rounds + 1
        self._heard = Heard(rounds, False, told, bool(hurried), self._complaint, agreed or bytes(reason).decode())

    def _set(self, name: str, value: str) -> None:
        self._store.set(f"{self._key}/{name}", value)

    def _judge(self) -> None:
        store = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        judge = Judge(self.limits, store, has_agent=self._has_agent, sees_all=self.sign.rank == 0)
        while not self._is_over.wait(BEAT):
            judge.limits = self.limits
            heard = replace(self._heard, complaint=self._complaint)
            if reason := heard.reason or judge(heard, time.monotonic()):
                self._end(reason)
                return

    def _end(self, reason: str) -> None:
        """Agrees on the reason, and ends the process; where the main thread waits for it, that does so by itself."""
        self._proposed = reason
        self._is_over.wait(0 if self._heard.reason else 2.5 * BEAT)
        self.reason = self._heard.reason or reason
        self._decided.set()
        if self._waits.is_set() or self._is_over.is_set():
            return
        error = LostRankError(self.reason, cure=CURE)
        tell_launcher(str(error))
        logger.error("%s", error, extra={"ends": error})
        self._linger()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(LostRankError.exit_code)

    def _linger(self) -> None:
        """Where this process holds the store, the others need some time to read the reason."""
        if self.sign.rank == 0 and not self._has_agent:
            time.sleep(2 * BEAT)


_HEARTS: list[Heart] = []  # that of this process, if there is one


def begin(rank: int, size: int) -> None:
    """Begins to give signs, unless this process does so; all ranks call it together."""
    if not _HEARTS:
        dist.distributed_c10d._set_pg_timeout(PATIENT)  # pyright: ignore[reportPrivateUsage]
        _HEARTS.append(Heart(rank, size))
        atexit.register(leave)


def leave() -> None:
    """Gives no more signs."""
    while _HEARTS:
        _HEARTS.pop().leave()


def at(phase: str, step: int | None = None, pace: Pace = "patience") -> None:
    """Tells the other ranks what this one does from now on, by default in the same step, and which limit holds."""
    for heart in _HEARTS:
        heart.at(phase, step, pace)


def moves() -> None:
    """Tells them that it comes on."""
    for heart in _HEARTS:
        heart.moves()


def lost(error: Exception) -> LostRankError | None:
    """What is said of an error in a collective, after some seconds in which the ranks find out; else None."""
    if not _HEARTS or not isinstance(error, RuntimeError) or not _OF_A_COLLECTIVE.search(str(error)):
        return None
    return _HEARTS[0].verdict(error)


@contextmanager
def naming_lost_ranks(limits: HeartbeatConfig) -> Generator[None]:
    """Within it these limits hold, and an error in a collective says which rank is lost.

    Of another error the other ranks are told.
    """
    for heart in _HEARTS:
        heart.limits = limits
    try:
        yield
    except LostRankError:
        raise
    except Exception as error:
        if named := lost(error):
            raise named from error
        for heart in _HEARTS:
            heart.ends(str(error).partition("\n")[0] or type(error).__name__)
        raise


def _connected() -> TCPStore:
    """A connection of its own to the store: calls of others, which may wait long, would stand before ours."""
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(*place, is_master=False, wait_for_workers=False, timeout=timedelta(minutes=5))


def _agreed_number(rank: int) -> int:
    """A random number of rank 0, on all ranks; not torch's randomness, on which results depend."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    number = torch.tensor(secrets.randbits(62) if rank == 0 else 0, device=device)
    dist.all_reduce(number)
    return int(number)
