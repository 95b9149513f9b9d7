"""How a request is authorised: OAuth 2.0 client credentials, or OAuth 1.0 app keys where these are still in use."""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

import requests
from requests.auth import AuthBase

from aht_pipeline.source.errors import ApiError
from aht_pipeline.source.http import Http

_RENEW_EARLY_S = 60
_DEFAULT_LIFETIME_S = 3600


class Authorisation(Protocol):
    """Signs requests; `renew` says whether a request that was answered 401 is worth another try."""

    def sign(self, http: Http) -> AuthBase:
        """What authorises one attempt of a request."""

    def renew(self, refused: AuthBase) -> bool:
        """After a 401: True where the next `sign` gives something else, so that another attempt makes sense."""


@dataclass(frozen=True)
class AppKeys:
    """OAuth 1.0: the app's key and token. Every attempt is signed anew, with a nonce and timestamp of its own."""

    app_key: str
    app_secret: str = field(repr=False)
    access_token: str = field(repr=False)
    access_token_secret: str = field(repr=False)

    def sign(self, http: Http) -> AuthBase:  # noqa: ARG002 - one face for both ways
        from requests_oauthlib import OAuth1

        signer: AuthBase = OAuth1(self.app_key, self.app_secret, self.access_token, self.access_token_secret)
        return signer

    def renew(self, refused: AuthBase) -> bool:  # noqa: ARG002
        return False


class ClientCredentials:
    """OAuth 2.0: a bearer token, fetched once, renewed a minute before it expires and once after a 401.

    token_url: `https://{sentinel}/sentinel/api/v2/account/{accountId}/app/token`.
    """

    def __init__(self, token_url: str, client_id: str, client_secret: str) -> None:
        self._token_url = token_url
        self._client_id = client_id
        self._client_secret = client_secret
        self._lock = threading.Lock()
        self._token: _BearerToken | None = None

    def sign(self, http: Http) -> AuthBase:
        with self._lock:  # the pages of a day run in threads: one of them fetches, the others wait for it
            if self._token is None or time.monotonic() > self._token.renew_at_s:
                self._token = self._fetch(http)
            return self._token

    def renew(self, refused: AuthBase) -> bool:
        with self._lock:
            if self._token is refused:
                self._token = None
        return True

    def _fetch(self, http: Http) -> _BearerToken:
        asked_at = time.monotonic()
        answer = http.post_form(
            self._token_url,
            {"client_id": self._client_id, "client_secret": self._client_secret, "grant_type": "client_credentials"},
            hint="check LIVEPERSON_CLIENT_ID and LIVEPERSON_CLIENT_SECRET",
        )
        try:
            reply = json.loads(answer)
            token = reply["access_token"]
            if not isinstance(token, str) or not token:
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise ApiError(f"POST {self._token_url}: the answer holds no access_token") from None
        lifetime_s = _lifetime_s(reply.get("expires_in"), token)
        return _BearerToken(token, renew_at_s=asked_at + max(lifetime_s - _RENEW_EARLY_S, lifetime_s / 2))


class _BearerToken(AuthBase):
    """One token and when, by the monotonic clock, it should be replaced."""

    def __init__(self, token: str, renew_at_s: float) -> None:
        self._token = token
        self.renew_at_s = renew_at_s

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _lifetime_s(expires_in: object, token: str) -> float:
    """`expires_in` (a number or a string of one), else the JWT's own `exp`, else an hour."""
    try:
        return float(str(expires_in))
    except ValueError:
        pass
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"]) - time.time()
    except (IndexError, ValueError, KeyError, TypeError):
        return _DEFAULT_LIFETIME_S
