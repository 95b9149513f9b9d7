"""Posts an alert to an incoming webhook, as Slack and Teams show it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from aht_pipeline.errors import AhtError

_TIMEOUT_S = 10
_LONGEST_TEXT = 3_000  # characters; Teams refuses messages above 28 kB
_MICROSOFTS = (".logic.azure.com", ".powerplatform.com", ".office.com")


class AlertFailed(AhtError):
    """The webhook did not take an alert. The text does not hold its URL, which is a secret."""


def post(webhook_url: str, text: str) -> None:
    """Post one alert. Raises AlertFailed; whoever posts must not fail because of it."""
    import requests  # takes its time, and most that import this post nothing

    try:
        reply = requests.post(webhook_url, json=message(webhook_url, text), timeout=_TIMEOUT_S, allow_redirects=False)
    except requests.RequestException as error:
        raise AlertFailed(
            f"the webhook of AHT_ALERT_WEBHOOK_URL did not answer ({type(error).__name__}): check it, the alert is "
            "posted again later"
        ) from None
    if not 200 <= reply.status_code < 300:
        raise AlertFailed(
            f"the webhook of AHT_ALERT_WEBHOOK_URL answered with status {reply.status_code}: check it, the alert is "
            "posted again later"
        )


def message(webhook_url: str, text: str) -> dict[str, Any]:
    """The JSON that this webhook shows as it is.

    `text` is all that Slack, and what understands Slack's messages, needs; Teams' workflows show only cards.
    """
    text = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …"
    if not (urlsplit(webhook_url).hostname or "").endswith(_MICROSOFTS):
        return {"text": text}
    card = {
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [{"type": "TextBlock", "text": line, "wrap": True} for line in text.splitlines()],
    }
    return {
        "type": "message",
        "text": text,
        "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}],
    }
