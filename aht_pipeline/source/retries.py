"""How long one request is tried: which failures may pass, the pauses between attempts, and what bounds them all."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from requests.auth import AuthBase

_LONGEST_SPREAD_S = 1.0  # by which a wait that the API names is exceeded at most, so that workers do not come at once


@dataclass(frozen=True)
class Pacing:
    """How long to wait and how often to try; the defaults are the documented ones, and only tests take others."""

    after_faults_s: tuple[float, ...] = (5, 10, 15)
    """Pauses before each repeat after 500, 503 and the like (LivePerson's retry policy recommendations)."""
    after_429_s: float = 1
    """Pause after a first 429 without Retry-After, doubled from then on, with jitter; and the least pause with one."""
    longest_429_s: float = 60
    tries_of_429: int = 8
    """And of any other failure that names its wait with Retry-After."""
    total_s: float = 900
    """No request takes longer than this over all its attempts and pauses, whatever Retry-After says."""
    attempt_s: float = 180
    """One attempt as a whole, from its connection to the last byte of its answer, however slowly that comes."""
    connect_timeout_s: float = 10
    read_timeout_s: float = 120
    """The longest silence within an attempt."""


class TransientError(Exception):
    """A failure that may pass: worth another attempt.

    retry_after_s: how long the API asks to wait. advice: what to do where it does not pass.
    """

    def __init__(self, text: str, *, retry_after_s: float | None = None, advice: str = "try again later") -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        self.advice = advice


class Fault(TransientError):
    """The API, or the way to it, did not work this time."""


class TooManyRequests(TransientError):
    """429."""


class TokenRefused(TransientError):
    """401 to a token that another one replaces."""

    def __init__(self, text: str, token: AuthBase) -> None:
        super().__init__(text)
        self.token = token


class RetryBudget:
    """How much trying one request has left: faults and waits that the API names are counted apart, time for both."""

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing
        self.over_at_s = time.monotonic() + pacing.total_s
        self._faults = 0
        self._waits = 0
        self.refused_token: AuthBase | None = None
        """The token that was answered 401 first."""
        self.pause_s = 0.0

    @property
    def spent(self) -> int:
        """Attempts that failed."""
        return self._faults + self._waits + (self.refused_token is not None)

    @property
    def is_over(self) -> bool:
        return (
            self._faults > len(self._pacing.after_faults_s)
            or self._waits >= self._pacing.tries_of_429
            or self._outlasts(self.pause_s)
        )

    def spend(self, failure: TransientError) -> None:
        """Count a failed attempt, and set the pause that comes after it."""
        if isinstance(failure, TokenRefused):
            self.refused_token = failure.token
            self.pause_s = 0.0
            return
        asked_s = failure.retry_after_s or 0.0
        pause_s = max(self._least_pause_s(failure), asked_s)
        longest_s = max(pause_s, min(self.over_at_s - time.monotonic(), pause_s + _LONGEST_SPREAD_S))
        spread_s = min(pause_s / 4, longest_s - pause_s) if asked_s else pause_s / 4
        self.pause_s = pause_s + random.uniform(0, spread_s)  # noqa: S311 - so that workers do not come back at once
        if isinstance(failure, TooManyRequests) or asked_s:
            self._waits += 1
        else:
            self._faults += 1

    def last_words(self, failure: TransientError) -> str:
        """What to say of the failure with which the trying ended."""
        asks_too_much = failure.retry_after_s is not None and self._outlasts(failure.retry_after_s)
        why = f", longer than what is left of the {self._pacing.total_s:.0f} s for one request" if asks_too_much else ""
        return f"{failure}{why}; given up at attempt {self.spent}: {failure.advice}"

    def _least_pause_s(self, failure: TransientError) -> float:
        pacing = self._pacing
        if not isinstance(failure, TooManyRequests):
            pauses_s = (0.0, *pacing.after_faults_s)
            return pauses_s[min(self._faults + 1, len(pacing.after_faults_s))]
        if failure.retry_after_s is not None:
            return pacing.after_429_s
        return min(pacing.after_429_s * (1 << self._waits), pacing.longest_429_s)

    def _outlasts(self, wait_s: float) -> bool:
        return time.monotonic() + wait_s > self.over_at_s
