"""Work that several processes do at once: functions named by a string, tasks and results as JSON, nothing pickled."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import import_module
from logging import getLogger
from pathlib import Path
from queue import SimpleQueue
from typing import Any, final

from thetahat.core import errors
from thetahat.core.errors import ConfigError, OutOfMemoryError, ThetahatError

Task = Mapping[str, Any]
Result = dict[str, Any]
Told = Callable[[int], None]  # how much of a task is done, in whatever the function counts
_ONE_THREAD = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_IO_THREADS")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
logger = getLogger("thetahat")


def num_workers() -> int:
    """$THETAHAT_WORKERS, or as many as there are cores for this process: those of a container by its quota."""
    if (given := os.environ.get("THETAHAT_WORKERS")) is None:
        return min(len(os.sched_getaffinity(0)), _quota())
    if not given.isdecimal() or not int(given):
        raise ConfigError(f"THETAHAT_WORKERS={given}", allowed="a number of processes, 1 or more")
    return int(given)


def _quota() -> int:
    """Cores that the control group of this process may use, rounded up; many, where it sets no limit."""
    try:
        quota, period = _QUOTA.read_text().split()
        return max(-(-int(quota) // int(period)), 1)
    except (OSError, ValueError):  # no control group, or "max"
        return sys.maxsize


def do_all(function: str, tasks: Iterable[Task], told: Told, workers: int) -> Iterator[Result]:
    """What `function` ("module:name"), called with each task and `told`, returns; in the order of the tasks.

    With one worker it is called here; else in other processes, which end with this one, however it ends. Tasks are
    taken as they are needed, and an error of one ends all.
    """
    if workers == 1 or not sys.executable:
        do = named(function)
        yield from (do(task, told) for task in tasks)
        return
    free: SimpleQueue[_Worker] = SimpleQueue()
    with _started(function, workers) as processes, ThreadPoolExecutor(workers) as threads:
        for process in processes:
            free.put(process)

        def ask(task: Task) -> Result:
            worker = free.get()
            try:
                return worker.ask(task, told)
            finally:
                free.put(worker)

        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                waiting.append(threads.submit(ask, task))
                if len(waiting) >= 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.end()


def named(function: str) -> Callable[[Task, Told], Result]:
    """The function that "module:name" names."""
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)


@contextmanager
def _started(function: str, workers: int) -> "Generator[list[_Worker]]":
    processes: list[_Worker] = []
    try:
        processes += (_Worker(function) for _ in range(workers))
        yield processes
    finally:
        for process in processes:
            process.end()


@final
class _Worker:
    """A process that does one task after the other."""

    def __init__(self, function: str) -> None:
        package = str(Path(errors.__file__).parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | dict.fromkeys(_ONE_THREAD, "1") | {"PYTHONPATH": os.pathsep.join(paths)}
        environment["TOKENIZERS_PARALLELISM"] = "false"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "thetahat.core.work.worker", function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def ask(self, task: Task, told: Told) -> Result:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        for line in self._process.stdout:
            said = json.loads(line)
            match said["kind"]:
                case "told":
                    told(said["number"])
                case "log":
                    logger.log(said["level"], "%s", said["line"])
                case "result":
                    return said["result"]
                case _:
                    raise _error(said)
        raise self._ended()

    def _ended(self) -> ThetahatError:
        code = self._process.wait()
        what = f"signal {-code}" if code < 0 else f"exit code {code}"
        return OutOfMemoryError(
            f"a process that prepared data was ended from outside ({what}): most often no memory was left",
            cure="THETAHAT_WORKERS=1 in front of the command; what is done is kept",
        )

    def end(self) -> None:
        """Ends it at once: what it was writing never appears."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for stream in filter(None, (self._process.stdin, self._process.stdout)):
            with suppress(BrokenPipeError):
                stream.close()


def _error(said: Mapping[str, Any]) -> Exception:
    if said["kind"] != "error":
        return RuntimeError(said["traceback"])
    kind = getattr(errors, said["class"], errors.DataError)
    return kind(said["what"], allowed=said["allowed"], cure=said["cure"])


def several(tasks: Iterable[Task], workers: int) -> tuple[Iterator[Task], int]:
    """The tasks, and how many workers they are worth: a single one is done here."""
    first = list(itertools.islice(iterator := iter(tasks), 2))
    return itertools.chain(first, iterator), workers if len(first) > 1 else 1
