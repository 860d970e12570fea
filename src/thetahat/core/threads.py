"""Work that several threads do at once."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import nn

Task = TypeVar("Task")
Result = TypeVar("Result")


def at_once(
    do: Callable[[Task], Result], tasks: Iterable[Task], workers: int, threads: int
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in order; so many workers do one each at once, with so many of torch's threads each.

    Where there is enough to do, that is quicker than all threads at one product after the other: nobody waits for the
    slowest before every step, and what is too small to be divided occupies one thread, not all. Who asks is one of the
    workers, so one of them needs no memory of its own: rather than wait for a result it does what nobody has begun.
    """
    before = torch.get_num_threads()
    take = partial(torch.set_num_threads, threads)  # of the thread that calls it
    others = ThreadPoolExecutor(workers - 1, initializer=take) if workers > 1 else None
    waiting: deque[tuple[Task, Future[Result]]] = deque()
    take()
    try:
        for task in tasks:
            waiting.append((task, others.submit(do, task) if others else Future()))
            if len(waiting) >= 2 * workers:
                yield _first(do, waiting)
        while waiting:
            yield _first(do, waiting)
    finally:
        if others:
            others.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # of this thread, and of those that begin later


def _first(do: Callable[[Task], Result], waiting: deque[tuple[Task, Future[Result]]]) -> tuple[Task, Result]:
    """The first task with its result; until somebody has it, does what nobody has begun."""
    for place, (task, result) in enumerate(waiting):
        if waiting[0][1].done():
            break
        if result.cancel():
            own = Future[Result]()
            own.set_result(do(task))
            waiting[place] = task, own
    task, result = waiting.popleft()
    return task, result.result()


@contextmanager
def of_threads(number: int) -> Generator[None]:
    """Products by so many of torch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_compiled(model: object) -> bool:
    """Whether a part of it is, so that one thread alone may call it: torch traces for the whole process."""
    parts = model.modules() if isinstance(model, nn.Module) else ()
    return any(part._compiled_call_impl is not None for part in parts)  # pyright: ignore[reportPrivateUsage]
