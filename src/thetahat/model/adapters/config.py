"""The config of low-rank adapters."""

from typing import Annotated

from msgspec import Meta

from thetahat.core.config import Config


class LoRAConfig(Config, kw_only=True):
    """How wide the product is, what it is multiplied with, and which matrices get one."""

    rank: Annotated[int, Meta(ge=1)] = 8
    """Width between the two thin matrices, r."""
    alpha: Annotated[float, Meta(gt=0)] = 16.0
    """The product is multiplied by alpha / rank."""
    also: tuple[str, ...] = ()
    """Patterns of the base's parameters that are trained as well, for example embedding.*"""
    targets: tuple[str, ...] = (
        "*.query",
        "*.key",
        "*.value",
        "*.output",
        "*.gate",
        "*.up",
        "*.down",
    )
    """Patterns of the matrices that get an adapter, by the names of their modules."""
