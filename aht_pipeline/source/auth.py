"""How a request is authorised: OAuth 2.0 client credentials, or OAuth 1.0 app keys where these are still in use."""

from __future__ import annotations

import base64
import json
import logging
import math
import re
import threading
import time

import requests
from requests.auth import AuthBase

from aht_pipeline.credentials import AppKeys, ClientCredentialKeys
from aht_pipeline.source.errors import ApiError
from aht_pipeline.source.http import Http

_RENEW_EARLY_S = 60
_DEFAULT_LIFETIME_S = 3600
_SHORTEST_LIFETIME_S = 1  # below it there would be a request for a token with every page

for _chatty in ("requests_oauthlib", "oauthlib"):  # at DEBUG they log the whole Authorization header
    logging.getLogger(_chatty).setLevel(logging.INFO)


class SignedByApp:
    """OAuth 1.0: every attempt is signed anew (HMAC-SHA1), with a nonce and a timestamp of its own."""

    def __init__(self, keys: AppKeys) -> None:
        self._keys = keys

    def sign(self, http: Http) -> AuthBase:  # noqa: ARG002 - one face for both ways
        from requests_oauthlib import OAuth1

        keys = self._keys
        signer: AuthBase = OAuth1(keys.app_key, keys.app_secret, keys.access_token, keys.access_token_secret)
        return signer

    def renew(self, refused: AuthBase) -> bool:  # noqa: ARG002
        return False


class BearerToken:
    """OAuth 2.0: a bearer token, fetched once, renewed a minute before it expires and after a 401.

    token_url: `https://{sentinel}/sentinel/api/v2/account/{accountId}/app/token`.
    """

    def __init__(self, token_url: str, keys: ClientCredentialKeys) -> None:
        self._token_url = token_url
        self._keys = keys
        self._lock = threading.Lock()
        self._token: _Token | None = None
        self._failure: ApiError | None = None
        self._failed_at_s = 0.0

    def sign(self, http: Http) -> AuthBase:
        waiting_since_s = time.monotonic()
        with self._lock:  # the pages of a day run in threads: one of them fetches, the others wait for it
            if self._token is None or time.monotonic() > self._token.renew_at_s:
                if self._failure and self._failed_at_s > waiting_since_s:
                    raise ApiError(str(self._failure))  # else each would try as long in its turn
                try:
                    self._token = self._fetch(http)
                except ApiError as failure:
                    self._failure, self._failed_at_s = failure, time.monotonic()
                    raise
            return self._token

    def renew(self, refused: AuthBase) -> bool:
        with self._lock:
            if self._token is refused:
                self._token = None
        return True

    def _fetch(self, http: Http) -> _Token:
        asked_at = time.monotonic()
        token, expires_in = http.post_form(
            self._token_url,
            {
                "client_id": self._keys.client_id,
                "client_secret": self._keys.client_secret,
                "grant_type": "client_credentials",
            },
            _read_token,
            hint="check LIVEPERSON_CLIENT_ID and LIVEPERSON_CLIENT_SECRET",
        )
        lifetime_s = _lifetime_s(expires_in, token)
        return _Token(token, renew_at_s=asked_at + max(lifetime_s - _RENEW_EARLY_S, lifetime_s / 2))


class _Token(AuthBase):
    """One token and when, by the monotonic clock, it should be replaced."""

    def __init__(self, token: str, renew_at_s: float) -> None:
        self._token = token
        self.renew_at_s = renew_at_s

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Token) and other._token == self._token

    def __hash__(self) -> int:
        return hash(self._token)


def _read_token(body: bytes) -> tuple[str, object]:
    """The `access_token` and the `expires_in` of an answer; no JSON is a passing fault (ValueError)."""
    reply = json.loads(body)
    token = reply.get("access_token") if isinstance(reply, dict) else None
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):  # what a header can carry
        raise ApiError(
            "the answer to the request for a token holds no access_token: check LIVEPERSON_SENTINEL_URL or "
            "LIVEPERSON_API_URL, where one is set"
        )
    return token, reply.get("expires_in")


def _lifetime_s(expires_in: object, token: str) -> float:
    """What `expires_in` (a number or a string of one) says, else the JWT by its own two times, else an hour.

    Whatever is no time that one can wait for says nothing. Where only such was said: until a 401.
    """
    lifetimes_s = (_usable_s(expires_in), _lifetime_of_jwt_s(token))
    fallback_s = _DEFAULT_LIFETIME_S if expires_in is None else math.inf
    return next((lifetime_s for lifetime_s in lifetimes_s if lifetime_s), fallback_s)


def _lifetime_of_jwt_s(token: str) -> float | None:
    """From `iat` to `exp`: both by the clock of who made it, which need not agree with ours."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return _usable_s(float(claims["exp"]) - float(claims["iat"]))
    except (IndexError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _usable_s(seconds: object) -> float | None:
    """A number of seconds, at least one; None for anything else."""
    try:
        number = float(str(seconds))
    except ValueError:
        return None
    return number if _SHORTEST_LIFETIME_S <= number < math.inf else None
