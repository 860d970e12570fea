"""The config of what is carried over."""

from typing import Annotated

from msgspec import Meta

from thetahat.core.config import Config

Count = Annotated[int, Meta(ge=1)]


class TransferConfig(Config, kw_only=True):
    """The shape at which learning rates were chosen; a wider or deeper model takes them over (µP, CompleteP)."""

    width: Count
    """The width of the residual stream at which learning rates were chosen."""
    num_layers: Count
    """The number of layers at which learning rates were chosen."""
    head_width: Count | None = None
    """The width of a head at which learning rates were chosen; none: the model's, which has more heads instead."""
