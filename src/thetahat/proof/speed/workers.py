"""The threads of a step that read micro-batches at once, each within something that looks at it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, final

from thetahat.core.work.regions import region
from thetahat.core.work.threads import Pool

Task = TypeVar("Task")
Result = TypeVar("Result")
WAITING = "thetahat: waiting for threads"  # the main thread, while others work


@final
class Within:
    """Workers each of whose tasks runs within a context of its own."""

    def __init__(self, workers: Pool, context: Callable[[], AbstractContextManager[Any]]) -> None:
        self.number = workers.number
        self._workers, self._context = workers, context

    def map(self, do: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The result of each task, in order."""

        def inside(task: Task) -> Result:
            with self._context():
                return do(task)

        found = self._workers.map(inside, tasks)
        for _ in tasks:
            with region(WAITING):
                result = next(found)
            yield result
