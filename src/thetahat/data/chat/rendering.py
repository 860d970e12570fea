"""The process that renders chat templates, as its parent sees it: requests go in, texts or one clear error come out."""

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any, final

import msgspec

from thetahat.core.errors import DataError

Job = tuple[bool, *tuple[tuple[int, int], ...]]  # add_generation_prompt, then ranges of messages
Run = tuple[int, int, int]  # start and stop in a text, and which of all characters given the first of them is
Told = tuple[list[Run] | None, list[tuple[int, str]]]  # the runs, and the fields that were read
Reply = list[tuple[bool, str, Told]]  # of each job whether it was rendered, with the text or why not
_JOBS = 256  # sent at once: a question and its answer cost two switches between processes


@dataclass(frozen=True, slots=True)
class Limits:
    """What a template may use for the texts that are asked for at once."""

    cpu_seconds: int = 10
    seconds: float = 60.0  # of wall-clock time: a machine may be busy
    memory: int = 1 << 30  # bytes of address space
    characters: int = 1 << 23  # of one text


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a template did not render a job."""

    why: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text of a job, and what of it comes from the messages and the tools."""

    text: str
    runs: Sequence[Run] | None = ()  # None: it cannot be told
    read: Sequence[tuple[int, str]] = ()  # fields that the template looked at, by message


@dataclass(frozen=True, slots=True)
class Scene:
    """A template and what it is given, for all jobs of a record."""

    where: str  # the record, for errors
    source: str
    messages: Sequence[Mapping[str, Any]]
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    date: str | None = None  # what `strftime_now` tells; None: there is no such function

    def request(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """What the process is sent."""
        names = ("source", "messages", "variables", "date")
        return {**{name: getattr(self, name) for name in names}, "jobs": jobs}


Scenes = Sequence[tuple[Scene, Sequence[Job]]]
JobGroup = list[tuple[int, Sequence[Job]]]  # the index of a scene, and some of its jobs


@final
class Renderer:
    """One process behind a fence, started when it is first needed, and again after a template broke it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started it: a fork must not talk into the same pipe
        self._lock = threading.Lock()

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def render(self, scenes: Scenes) -> list[list[Rendered | Refusal]]:
        """For each scene the text of each job, or why there is none; breaking the limits is an error about its record.

        Many small scenes go at once; where that breaks the limits each is tried alone, which tells the guilty one.
        """
        answers: list[list[Rendered | Refusal]] = [[] for _ in scenes]
        for group in _grouped(scenes):
            replies = self._ask([scenes[index][0].request(jobs) for index, jobs in group])
            if isinstance(replies, str) and len(group) > 1:
                replies = self._one_by_one(scenes, group)
            if isinstance(replies, str):
                raise _broken(scenes[group[0][0]][0].where, replies)
            for (index, _), reply in zip(group, replies, strict=True):
                answers[index] += [
                    Rendered(text, *told) if is_rendered else Refusal(text) for is_rendered, text, told in reply
                ]
        return answers

    def _one_by_one(self, scenes: Scenes, group: JobGroup) -> list[Reply]:
        replies: list[Reply] = []
        for index, jobs in group:
            reply = self._ask([scenes[index][0].request(jobs)])
            if isinstance(reply, str):
                raise _broken(scenes[index][0].where, reply)
            replies += reply
        return replies

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None and self._owner == os.getpid():
            self._end(self._process)
        self._process = None

    def _ask(self, requests: Sequence[Mapping[str, Any]]) -> list[Reply] | str:
        """The answers, or how the process ended instead."""
        line = json.dumps(requests).encode() + b"\n"
        with self._lock:
            process = self._started()
            deadline = time.monotonic() + self._limits.seconds
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
                answer = _line(process.stdout, deadline)
            except BrokenPipeError:
                answer = b""
            if answer.endswith(b"\n"):
                return msgspec.json.decode(answer, type=list[Reply] | str)
            is_late = process.poll() is None and time.monotonic() >= deadline
            code = self._end(process)
            self._process = None
            return self._ending(code, is_late=is_late)

    def _ending(self, code: int, *, is_late: bool) -> str:
        if is_late:
            return f"it did not end within {self._limits.seconds:g} seconds"
        if code == -signal.SIGXCPU:
            return f"it ran for more than {self._limits.cpu_seconds} seconds"
        return f"its process ended with exit code {code}" + (", probably for want of memory" if code < 0 else "")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is not None:
            self.close()
        if self._process is None or self._owner != os.getpid():
            limits = self._limits
            numbers = map(str, (limits.cpu_seconds, limits.memory, limits.characters))
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("sandbox.py")), *numbers],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ},
            )
            self._owner = os.getpid()
        return self._process

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        try:
            process.communicate(timeout=0.2)
        except (subprocess.TimeoutExpired, OSError, ValueError):
            process.kill()
            process.communicate()
        return process.returncode


@cache
def shared() -> Renderer:
    """The renderer of this process, which ends with it."""
    renderer = Renderer()
    atexit.register(renderer.close)
    return renderer


def _line(stream: IO[bytes], deadline: float) -> bytes:
    """One line, or what had come by the deadline or the end."""
    got: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not got or not got[-1].endswith(b"\n"):
            if not selector.select(max(deadline - time.monotonic(), 0)):
                break
            piece = os.read(stream.fileno(), 1 << 20)
            if not piece:
                break
            got.append(piece)
    return b"".join(got)


class BrokenTemplateError(DataError):
    """A template that ends its process or runs for ever: it is not tried with one record after the other."""


def _broken(where: str, why: str) -> BrokenTemplateError:
    return BrokenTemplateError(
        f"{where}: the chat template cannot be used: {why}", cure="another template, or a mended one"
    )


def _grouped(scenes: Scenes) -> Iterator[JobGroup]:
    """The jobs of all scenes, so many at once."""
    group: JobGroup = []
    room = _JOBS
    for index, (_, jobs) in enumerate(scenes):
        start = 0
        while start < len(jobs):
            group.append((index, jobs[start : start + room]))
            start += len(group[-1][1])
            room -= len(group[-1][1])
            if not room:
                yield group
                group, room = [], _JOBS
    if group:
        yield group
