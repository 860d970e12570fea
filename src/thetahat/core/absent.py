"""Parameters that another process has, and this one never: here they have a shape and a dtype, and no memory."""

from torch import Tensor, nn

_MARK = "is_absent"


def leave_out(parameter: nn.Parameter) -> None:
    """This process never gives it memory: it stays on `meta`."""
    setattr(parameter, _MARK, True)


def is_absent(tensor: Tensor) -> bool:
    """Whether another process has it."""
    return hasattr(tensor, _MARK)
