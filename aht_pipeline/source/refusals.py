"""What a reply that is no answer says: its status, its wait and its body, in a line and without secrets."""

from __future__ import annotations

import html
import json
import math
import re
import time
from http import HTTPStatus

from aht_pipeline.source.freshness import Headers, http_dates_s

_STATUSES = frozenset(HTTPStatus)


def retry_after_s(headers: Headers) -> float | None:
    """Seconds, or an HTTP date, which is meant by the clock that dated the reply; None for neither."""
    named = headers.get("Retry-After", "")
    try:
        seconds = float(named)
    except ValueError:
        until_s = http_dates_s(named)
        if not until_s:
            return None
        replied_at_s = http_dates_s(headers.get("Date", "")) or (time.time(),)
        seconds = until_s[-1] - replied_at_s[-1]
    return None if math.isnan(seconds) else max(0.0, seconds)


def phrase(status: int) -> str:
    """The status in words of our own: the server's could repeat what was sent."""
    return HTTPStatus(status).phrase if status in _STATUSES else ""


def _error_object(body: bytes) -> dict[str, object]:
    try:
        error = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {}


def causes_of(body: bytes) -> tuple[str, ...]:
    """What it says is wrong, one text a cause."""
    error = _error_object(body)
    causes = error.get("causes") or error.get("message")
    return tuple(map(str, causes if isinstance(causes, list) else [causes])) if causes else ()


def what_it_says(body: bytes, secrets: list[str]) -> str:
    """What an error's body says, in a line: JSON as documented, HTML, or nothing."""
    error = _error_object(body)
    told = (str(error[key]) for key in ("reason", "message", "error_description") if error.get(key))
    parts = list(dict.fromkeys([*causes_of(body), *told]))
    if error.get("internalCode"):
        parts.append(f"internalCode {error['internalCode']}")
    if body.lstrip().startswith(b"["):  # data and no error, perhaps about people
        return ""
    text = "; ".join(parts) or html.unescape(body.decode(errors="replace"))
    text = masked(text, secrets)  # before anything is cut off
    if not parts:
        text = re.sub(r"<[^>]*>", " ", text[:2000])
    return re.sub(r"\s+", " ", text).strip()[:500]


def masked(text: str, secrets: list[str]) -> str:
    """Without what must not be shown."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
