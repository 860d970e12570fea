"""Counts the bytes of tensors that live at one time."""

import weakref
from collections.abc import Iterable, Mapping
from threading import RLock
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thetahat.distribution.pieces import piece


@final
class Tally:
    """Bytes that live now, and the most there were; threads may count at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}
        self._lock = RLock()  # a finalizer may run while its own thread counts

    @torch.no_grad()
    def note(self, tensors: Iterable[Tensor]) -> None:
        """Counts tensors that are there, each storage once; of one that ranks share, the piece that is here."""
        for storage in (piece(tensor).untyped_storage() for tensor in tensors):
            key = storage._cdata  # pyright: ignore
            with self._lock:
                if key in self._sizes:
                    continue
                self._sizes[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        with self._lock:
            self.now -= self._sizes.pop(key, 0)


@final
class Living(TorchDispatchMode):
    """Within it, the bytes of all storages that live, and the most there were.

    It sees every tensor that an operation returns, and a finalizer when its storage goes. So it is exact for what an
    allocator is asked for, and knows nothing of its rounding, of fragments, or of scratch memory within a kernel.
    A mode is of one thread: others that work for the same step each enter one, with the same tally.
    """

    def __init__(self, tally: Tally | None = None) -> None:
        super().__init__()
        self.tally = tally or Tally()

    @property
    def most(self) -> int:
        """Bytes, at the most."""
        return self.tally.most

    def note(self, tensors: Iterable[Tensor]) -> None:
        """Counts tensors that were there before."""
        self.tally.note(tensors)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls the operation, and counts what it returns."""
        out = function(*args, **(kwargs or {}))
        self.tally.note(leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
        return out
