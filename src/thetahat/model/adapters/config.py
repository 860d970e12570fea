"""The config of low-rank adapters."""

from typing import Annotated

from msgspec import Meta

from thetahat.core.config import Config


class LoRAConfig(Config, kw_only=True):
    """How wide the product is, what it is multiplied with, and which matrices get one."""

    rank: Annotated[int, Meta(ge=1)] = 8
    alpha: Annotated[float, Meta(gt=0)] = 16.0
    also: tuple[str, ...] = ()  # patterns of the base's parameters that are trained as well, for example embedding.*
    targets: tuple[str, ...] = (
        "*.query",
        "*.key",
        "*.value",
        "*.output",
        "*.gate",
        "*.up",
        "*.down",
    )  # names of modules
