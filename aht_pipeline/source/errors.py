"""How a call of LivePerson can fail for good, after every retry that is documented."""

from __future__ import annotations

from aht_pipeline.errors import AhtError


class ApiError(AhtError):
    """A request failed for good. The text names the request, the status and what the API said of it."""


class Refused(ApiError):
    """The API understood the request and will not answer it (400, or 413, 416, 422).

    causes: what it says is wrong, one text a cause.
    """

    def __init__(self, text: str, causes: tuple[str, ...]) -> None:
        super().__init__(text)
        self.causes = causes


class Forgotten(ApiError):
    """The API refuses the day as older than its memory of one month."""


class NotBelieved(ApiError):
    """The API answered with nothing for a day that it may have forgotten."""


class Unproved(AhtError):
    """A window's segments do not add up to what the API says it holds, whichever way it is read."""
