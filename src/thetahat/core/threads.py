"""Work that several threads do at once."""

from collections.abc import Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn


@contextmanager
def shared_threads(number: int) -> Generator[Executor]:
    """`number` workers, of which each computes with its share of torch's threads; afterwards torch has them all again.

    Where there is enough to do, that is quicker than all threads at one product after the other: nobody waits for the
    slowest before every step, and what is too small to be divided occupies one thread, not all.
    """
    threads = torch.get_num_threads()
    share = partial(torch.set_num_threads, max(threads // number, 1))  # of the thread that calls it
    workers = ThreadPoolExecutor(number, initializer=share)
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # of this thread, and of those that begin later


def is_compiled(model: object) -> bool:
    """Whether a part of it is, so that one thread alone may call it: torch traces for the whole process."""
    parts = model.modules() if isinstance(model, nn.Module) else ()
    return any(part._compiled_call_impl is not None for part in parts)  # pyright: ignore[reportPrivateUsage]
