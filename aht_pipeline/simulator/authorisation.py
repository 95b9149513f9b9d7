"""Who may ask: OAuth 2.0 tokens handed out and taken back, OAuth 1.0 signatures verified (RFC 5849)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from aht_pipeline.simulator.exchange import Reply, Request, json_reply

_CLOCK_SKEW_S = 300


@dataclass(frozen=True)
class Credentials:
    """What the server accepts: made-up values, good for nothing elsewhere."""

    client_id: str = "demo-client"
    client_secret: str = field(default="demo-secret", repr=False)
    app_key: str = "demo-app-key"
    app_secret: str = field(default="demo-app-secret", repr=False)
    access_token: str = field(default="demo-token", repr=False)
    access_token_secret: str = field(default="demo-token-secret", repr=False)


class Gatekeeper:
    """Grants tokens and judges the Authorization header of every request, by the real clock.

    token_lifetime_s: after this a token is refused.
    expires_in: how the token answer says so: a number, a string, or not at all.
    """

    def __init__(
        self,
        credentials: Credentials,
        token_lifetime_s: float = 3600,
        expires_in: Literal["number", "string", "absent"] = "number",
    ) -> None:
        self._credentials = credentials
        self._lifetime_s = token_lifetime_s
        self._expires_in = expires_in
        self._lock = threading.Lock()
        self._valid_until: dict[str, float] = {}
        self._seen_nonces: dict[tuple[str, str], float] = {}

    def grant(self, request: Request) -> Reply:
        """Answer a request for a token."""
        form = dict(parse_qsl(request.body.decode("utf-8", "replace")))
        if form.get("grant_type") != "client_credentials":
            return json_reply(400, {"error": "unsupported_grant_type"})
        ours = self._credentials
        if (form.get("client_id"), form.get("client_secret")) != (ours.client_id, ours.client_secret):
            return json_reply(401, {"error": "invalid_client", "error_description": "Bad client credentials"})
        token = self._new_token()
        answer: dict[str, object] = {"access_token": token, "token_type": "Bearer"}
        if self._expires_in != "absent":
            seconds = int(self._lifetime_s)
            answer["expires_in"] = str(seconds) if self._expires_in == "string" else seconds
        return json_reply(200, answer)

    def revoke_tokens(self) -> None:
        """Refuse every token granted so far."""
        with self._lock:
            self._valid_until.clear()

    def refusal(self, request: Request) -> Reply | None:
        """The 401 for this request, or None where it may pass."""
        scheme, _, value = request.authorization.partition(" ")
        if scheme == "Bearer":
            problem = self._bearer_problem(value)
        elif scheme == "OAuth":
            problem = self._oauth1_problem(request, _oauth_parameters(value))
        else:
            problem = "parameter_absent", "no Authorization header of OAuth 1.0 or 2.0"
        if problem is None:
            return None
        reason, message = problem
        return json_reply(401, {"reason": f"oauth_problem={reason}", "message": message})

    def _new_token(self) -> str:
        now = time.time()
        claims = {"sub": self._credentials.client_id, "exp": int(now + self._lifetime_s), "jti": secrets.token_hex(8)}
        unsigned = (
            f"{_base64(msgspec.json.encode({'alg': 'HS256', 'typ': 'JWT'}))}.{_base64(msgspec.json.encode(claims))}"
        )
        token = f"{unsigned}.{_base64(secrets.token_bytes(32))}"
        with self._lock:
            self._valid_until = {old: until for old, until in self._valid_until.items() if until > now}
            self._valid_until[token] = now + self._lifetime_s
        return token

    def _bearer_problem(self, token: str) -> tuple[str, str] | None:
        with self._lock:
            until = self._valid_until.get(token)
        if until is None:
            return "token_rejected", "the access token is not valid, or was revoked"
        return None if time.time() < until else ("token_expired", "the access token has expired")

    def _oauth1_problem(self, request: Request, oauth: Mapping[str, str]) -> tuple[str, str] | None:
        ours = self._credentials
        if oauth.get("oauth_signature_method") != "HMAC-SHA1":
            return "signature_method_rejected", "only HMAC-SHA1 is accepted"
        if oauth.get("oauth_consumer_key") != ours.app_key:
            return "consumer_key_unknown", "the app key is not known"
        if oauth.get("oauth_token") != ours.access_token:
            return "token_rejected", "the access token is not valid"
        expected = oauth1_signature(
            request.method,
            f"http://{request.host}{request.path}",
            [*request.parameters, *((name, value) for name, value in oauth.items() if name != "oauth_signature")],
            ours.app_secret,
            ours.access_token_secret,
        )
        if not hmac.compare_digest(expected.encode(), oauth.get("oauth_signature", "").encode()):
            return "signature_invalid", "the signature does not fit the request"
        return self._replay_problem(oauth.get("oauth_nonce", ""), oauth.get("oauth_timestamp", ""))

    def _replay_problem(self, nonce: str, timestamp: str) -> tuple[str, str] | None:
        now = time.time()
        if not timestamp.isdecimal() or abs(now - int(timestamp)) > _CLOCK_SKEW_S:
            return "timestamp_refused", f"the timestamp is not within {_CLOCK_SKEW_S} s of the server's clock"
        with self._lock:
            if (nonce, timestamp) in self._seen_nonces:
                return "nonce_used", "this nonce was used before"
            if len(self._seen_nonces) >= 10_000:  # a stale one is refused by its timestamp
                self._seen_nonces = {seen: until for seen, until in self._seen_nonces.items() if until >= now}
            self._seen_nonces[nonce, timestamp] = int(timestamp) + _CLOCK_SKEW_S
        return None


def oauth1_signature(
    method: str, url: str, parameters: Sequence[tuple[str, str]], app_secret: str, token_secret: str
) -> str:
    """The HMAC-SHA1 signature of RFC 5849, 3.4; `parameters` are all of the query and of the header but the realm."""
    pairs = sorted((_escaped(name), _escaped(value)) for name, value in parameters if name != "realm")
    normalised = "&".join(f"{name}={value}" for name, value in pairs)
    base = "&".join(_escaped(part) for part in (method.upper(), url, normalised))
    key = f"{_escaped(app_secret)}&{_escaped(token_secret)}"
    return base64.b64encode(hmac.digest(key.encode(), base.encode(), hashlib.sha1)).decode()


def _oauth_parameters(header: str) -> dict[str, str]:
    pairs = (part.strip().partition("=") for part in header.split(","))
    return {unquote(name): unquote(value.strip('"')) for name, _, value in pairs if name}


def _escaped(text: str) -> str:
    return quote(text, safe="~")


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
