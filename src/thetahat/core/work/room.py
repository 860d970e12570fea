"""How much room the cache needs, said before it is used."""

import shutil
from logging import getLogger
from pathlib import Path

from thetahat.core.errors import DiskFullError
from thetahat.core.plain import sized

_WORTH_SAYING = 1 << 28  # bytes
_MARGIN = 0.7  # of the estimate: with less than that there is clearly too little
logger = getLogger("thetahat")


def check_room(folder: Path, num_bytes: int, what: str) -> None:
    """Says about how many bytes `what` takes in the cache, if many; raises DiskFullError where they are not there."""
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    told = f"{what} takes about {sized(num_bytes)} in {folder.parent}, where {sized(free)} are free"
    if free < _MARGIN * num_bytes:
        raise DiskFullError(
            told, cure="thetahat cache --clean, or THETAHAT_CACHE=DIR in front of the command, on a larger disk"
        )
    if num_bytes >= _WORTH_SAYING:
        logger.info("%s", told)
