"""What torchrun asks of the processes that it starts."""

import json
import os
import time
from contextlib import suppress


def tell_launcher(what: str) -> None:
    """Tells torchrun why this process ends, so that its own last lines say so, too; elsewhere nothing."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        seconds = str(int(time.time()))  # of several failures the first is shown as the cause
        told = {"message": {"message": what, "extraInfo": {"timestamp": seconds}}}
        with suppress(OSError), open(path, "w", encoding="utf-8") as file:
            json.dump(told, file)
