"""Work that several threads do at once."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar, final, runtime_checkable

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")


def at_once(
    do: Callable[[Task], Result], tasks: Iterable[Task], workers: int, threads: int
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in order; so many workers do one each at once, with so many of torch's threads each.

    Where there is enough to do, that is quicker than all threads at one product after the other: nobody waits for the
    slowest before every step, and what is too small to be divided occupies one thread, not all. At most `2 * workers`
    tasks have been taken and not yet given back (`Executor.map` takes all at once), so whoever gives them may stop.
    """
    with of_threads(threads):
        if workers == 1:
            yield from ((task, do(task)) for task in tasks)
            return
        pool = ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, threads))
        waiting: deque[tuple[Task, Future[Result]]] = deque()
        try:
            for task in tasks:
                waiting.append((task, pool.submit(do, task)))
                if len(waiting) >= 2 * workers:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            pool.shutdown(cancel_futures=True)


def _first(waiting: deque[tuple[Task, Future[Result]]]) -> tuple[Task, Result]:
    task, result = waiting.popleft()
    return task, result.result()


@runtime_checkable
class Pool(Protocol):
    """Does several tasks at once."""

    @property
    def number(self) -> int:
        """How many."""
        ...

    def map(self, do: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The result of each task, in order."""
        ...


@final
class Workers:
    """So many that do one task each at once, with so many of torch's threads each; their threads are kept."""

    def __init__(self, number: int = 1, threads: int = 1) -> None:
        self.number, self.threads = number, threads
        self._pool: ThreadPoolExecutor | None = None

    def map(self, do: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The result of each task, in order."""
        if self._pool is None:
            set_threads = partial(torch.set_num_threads, self.threads)
            self._pool = ThreadPoolExecutor(self.number, "worker", initializer=set_threads)
        return self._pool.map(do, tasks)


@contextmanager
def of_threads(number: int) -> Generator[None]:
    """Products by so many of torch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
