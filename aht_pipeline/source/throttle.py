"""How many requests may be on their way at once: fewer after a 429, one more after a while of success."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SUCCESSES_TO_RISE = 8  # for each place that is open: about one more place every eight round trips
_LOOKS_UP_S = 0.2  # how often one that waits for a place looks whether it is still wanted


class Abandoned(Exception):
    """The request was given up before it was sent, because another one of the same day failed."""


class Throttle:
    """At most `most` requests at once. A 429 halves that and stops new requests for as long as the API asks."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._allowed = most
        self._busy = 0
        self._successes = 0
        self._closed_until = 0.0
        self._change = threading.Condition()

    @property
    def allowed(self) -> int:
        return self._allowed

    @contextmanager
    def slot(self, abandon: threading.Event, until_s: float = math.inf) -> Iterator[None]:
        """Wait for a place, and hold it for the time of one request.

        Raises Abandoned once `abandon` is set, TimeoutError from this moment of the monotonic clock on.
        """
        with self._change:
            while (closed_s := self._closed_until - time.monotonic()) > 0 or self._busy >= self._allowed:
                if abandon.is_set():
                    raise Abandoned
                if time.monotonic() >= until_s:
                    raise TimeoutError
                self._change.wait(min(closed_s, _LOOKS_UP_S) if closed_s > 0 else _LOOKS_UP_S)
            self._busy += 1
        try:
            yield
        finally:
            with self._change:
                self._busy -= 1
                self._change.notify()

    def refused(self, closed_for_s: float) -> None:
        """The API said 429; no new request starts for this long."""
        with self._change:
            self._allowed = max(1, self._allowed // 2)
            self._successes = 0
            self._closed_until = max(self._closed_until, time.monotonic() + closed_for_s)

    def succeeded(self) -> None:
        with self._change:
            self._successes += 1
            if self._allowed < self._most and self._successes >= _SUCCESSES_TO_RISE * self._allowed:
                self._allowed += 1
                self._successes = 0
                self._change.notify()
