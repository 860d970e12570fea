"""Alarms to a URL: posted by a thread of its own, which the training never waits for."""

import json
import queue
import threading
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from logging import getLogger
from typing import Any, final
from urllib.parse import urlsplit

TIMEOUT = 10.0  # seconds for one post
LAST = 10.0  # seconds that the end of a run waits for posts that are under way
MOST = 100  # posts that wait; more are dropped, and that is said

logger = getLogger("thetahat")


@final
class Webhook:
    """Posts JSON objects to a URL, one after the other. The first failure is logged, and none disturbs anything."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._queue: queue.Queue[bytes | None] = queue.Queue(MOST)
        self._has_failed = False
        self._thread = threading.Thread(target=self._post_all, name="webhook", daemon=True)
        self._thread.start()

    def post(self, told: Mapping[str, Any]) -> None:
        """Hands an object over; it returns at once."""
        try:
            self._queue.put_nowait(json.dumps(told, allow_nan=False).encode())
        except queue.Full:
            self._fail(f"{MOST} posts wait already")

    def close(self) -> None:
        """Waits until what was handed over is posted, but for LAST seconds at most."""
        try:
            self._queue.put(None, timeout=LAST)
        except queue.Full:
            return
        self._thread.join(LAST)

    def _post_all(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                request = urllib.request.Request(
                    self._url, data, {"Content-Type": "application/json", "User-Agent": "thetahat"}
                )
                with urllib.request.urlopen(request, timeout=TIMEOUT):
                    pass
            except (OSError, ValueError, HTTPException) as error:
                self._fail(str(error) or type(error).__name__)

    def _fail(self, why: str) -> None:
        """Says it once; the path of a URL is often a secret, and is not shown."""
        if not self._has_failed:
            self._has_failed = True
            logger.warning("an alarm could not be posted to %s: %s", urlsplit(self._url).hostname, why)
