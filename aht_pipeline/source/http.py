"""One HTTP request to LivePerson: never redirected, retried as documented, never more at once than allowed."""

from __future__ import annotations

import email.utils
import html
import json
import logging
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote, quote_plus, unquote, urlencode, urlsplit

import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.utils import default_headers

from aht_pipeline.errors import AhtError
from aht_pipeline.source.errors import ApiError, Refused
from aht_pipeline.source.throttle import Abandoned, Throttle

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_STATUSES = frozenset(HTTPStatus)
_SAME_AS_500 = {408, 500, 502, 503, 504}  # and resets, time-outs, cut-off and non-JSON bodies


@dataclass(frozen=True)
class Pacing:
    """How long to wait and how often to try; the defaults are the documented ones, and only tests take others."""

    after_faults_s: tuple[float, ...] = (5, 10, 15)
    """Pauses before each repeat after 500, 503 and the like (LivePerson's retry policy recommendations)."""
    after_429_s: float = 1
    """Pause after a first 429 without Retry-After, doubled from then on, with jitter; and the least pause with one."""
    longest_429_s: float = 60
    tries_of_429: int = 8
    total_s: float = 900
    """No request is waited for longer than this in all, whatever Retry-After says."""
    connect_timeout_s: float = 10
    read_timeout_s: float = 120


class Authorisation(Protocol):
    """Signs requests; `renew` says whether a request that was answered 401 is worth another try."""

    def sign(self, http: Http) -> AuthBase:
        """What authorises one attempt of a request."""

    def renew(self, refused: AuthBase) -> bool:
        """After a 401: True where the next `sign` gives something else, so that another attempt makes sense."""


class Http:
    """A connection pool with the manners that LivePerson asks for. Safe to use from many threads."""

    def __init__(self, concurrency: int, user_agent: str, pacing: Pacing | None = None) -> None:
        self.throttle = Throttle(concurrency)
        self.pacing = pacing or Pacing()
        # No session above it: nothing of one is wanted (redirects, cookies), and it takes its time with every page.
        self._adapter = HTTPAdapter(pool_connections=4, pool_maxsize=concurrency + 2)
        self._headers = {**default_headers(), "User-Agent": user_agent}
        self._environments: dict[str, Any] = {}

    def close(self) -> None:
        self._adapter.close()

    def get(
        self,
        url: str,
        params: Mapping[str, str | int],
        read: Callable[[bytes], Answer],
        *,
        authorisation: Authorisation | None = None,
        hint: str = "",
        abandon: threading.Event | None = None,
    ) -> tuple[Answer, int]:
        """The answer as `read` returns it, and the attempts it took.

        read: takes the body; a ValueError or AhtError of it makes the body a faulty one, an ApiError ends the request.
        hint: what to check when the API says 401 or 403.
        Raises Refused for a 400, ApiError for every other failure that outlasts its retries.
        """
        call = _Call("GET", url, _of_body(read), authorisation, hint, abandon or threading.Event(), params=params)
        return self._until_it_passes(call)

    def get_if_changed(
        self,
        url: str,
        params: Mapping[str, str | int],
        read: Callable[[bytes], Answer],
        *,
        revision: str | None,
        authorisation: Authorisation,
        hint: str,
    ) -> tuple[Answer, str | None] | None:
        """The answer, as by `get`, and its revision (`ac-revision`); None where it is still at this one (304)."""

        def read_change(body: bytes, response: requests.Response) -> tuple[Answer, str | None] | None:
            if response.status_code == HTTPStatus.NOT_MODIFIED:
                return None
            return read(body), response.headers.get("ac-revision")

        call = _Call("GET", url, read_change, authorisation, hint, threading.Event(), params=params, revision=revision)
        return self._until_it_passes(call)[0]

    def post_form(self, url: str, form: Mapping[str, str], read: Callable[[bytes], Answer], *, hint: str) -> Answer:
        """What answers a form, read as by `get`. The form's values are secrets: they are kept out of every error."""
        call = _Call("POST", url, _of_body(read), None, hint, threading.Event(), form=form)
        return self._until_it_passes(call)[0]

    def _until_it_passes(self, call: _Call[Answer]) -> tuple[Answer, int]:
        patience = _Patience(self.pacing)

        def attempt() -> Answer:
            if call.abandon.is_set():
                raise Abandoned
            try:
                return self._attempt(call, may_renew=not patience.renewed)
            except _Passing as failure:
                patience.spend(failure)
                raise

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Passing),
            wait=lambda _: patience.pause_s,
            stop=lambda _: patience.is_over,
            sleep=tenacity.sleep_using_event(call.abandon),
            before_sleep=_log_the_wait,
            reraise=True,
        )
        try:
            answer = retrying(attempt)
        except _Passing as failure:
            raise ApiError(f"{failure}; given up at attempt {patience.spent}: try again later") from None
        return answer, patience.spent + 1

    def _environment(self, url: str) -> Any:
        """The proxies and certificate authorities that the environment names for this host."""
        host = urlsplit(url).netloc
        if host not in self._environments:
            with requests.Session() as trusting:
                plain_http_stays_here = {"http": ""}
                self._environments[host] = trusting.merge_environment_settings(
                    url, plain_http_stays_here, stream=True, verify=None, cert=None
                )
        return self._environments[host]

    def _attempt(self, call: _Call[Answer], may_renew: bool) -> Answer:
        signer = call.authorisation.sign(self) if call.authorisation else _NoAuth()
        try:
            with self.throttle.slot(call.abandon):
                response = self._adapter.send(
                    call.prepared(self._headers, signer),
                    **self._environment(call.url),
                    timeout=(self.pacing.connect_timeout_s, self.pacing.read_timeout_s),
                )
                body: bytes = response.raw.read(decode_content=True)  # one large read costs less than .content
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            cause = _root_cause(error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise ApiError(f"{call}: the server's certificate is not trusted: {cause}") from None
            raise _Fault(f"{call}: {_named(cause)}") from None
        if not call.is_answered_by(response.status_code):
            raise self._failure(call, response, body, signer if may_renew else None)
        try:
            answer = call.read(body, response)
        except ApiError:
            raise
        except (ValueError, AhtError) as error:
            raise _Fault(f"{call}: {error}") from None
        self.throttle.succeeded()
        return answer

    def _failure(
        self, call: _Call[Answer], response: requests.Response, body: bytes, renewable: AuthBase | None
    ) -> _Passing | ApiError:
        status = response.status_code
        said = _what_it_says(body, secrets=call.secrets(response))
        text = f"{call}: {status} {_phrase(status)}".rstrip() + (f": {said}" if said else "")
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            asked_s = _retry_after_s(response.headers.get("Retry-After"))
            is_awaited = asked_s is not None and asked_s <= self.pacing.total_s
            self.throttle.refused(closed_for_s=asked_s if asked_s and is_awaited else 0)
            return _TooMany(text if asked_s is None else f"{text}: asks to wait {asked_s:.0f} s", asked_s)
        if status in _SAME_AS_500:
            return _Fault(text)
        if status == HTTPStatus.BAD_REQUEST and call.form is None:  # to a form it means wrong credentials
            return Refused(text, _causes(body))
        if (
            status == HTTPStatus.UNAUTHORIZED
            and renewable
            and call.authorisation
            and call.authorisation.renew(renewable)
        ):
            return _TokenRefused(text)
        return ApiError(f"{text}; {_advice(response, call.hint)}")


@dataclass(frozen=True)
class _Call(Generic[Answer]):
    """What stays the same over the attempts of one request."""

    method: str
    url: str
    read: Callable[[bytes, requests.Response], Answer]
    authorisation: Authorisation | None
    hint: str
    abandon: threading.Event
    params: Mapping[str, str | int] = field(default_factory=dict)
    form: Mapping[str, str] | None = None
    revision: str | None = None

    def prepared(self, headers: Mapping[str, str | bytes], signer: AuthBase) -> requests.PreparedRequest:
        """One attempt."""
        request = requests.PreparedRequest()
        request.prepare_method(self.method)
        request.url = _normal(self.url) + ("?" + urlencode(self.params) if self.params else "")
        request.prepare_headers({**headers, **({"If-Match": self.revision} if self.revision else {})})
        request.prepare_body(self.form, None)
        request.prepare_auth(signer)
        return request

    def is_answered_by(self, status: int) -> bool:
        return status == HTTPStatus.OK or (status == HTTPStatus.NOT_MODIFIED and self.revision is not None)

    def __str__(self) -> str:
        query = "&".join(f"{key}={value}" for key, value in self.params.items())
        return f"{self.method} {self.url}" + (f"?{query}" if query else "")

    def secrets(self, response: requests.Response) -> list[str]:
        """What an error's body may echo and must not be shown: the form's values, the parts of the signature."""
        authorised_by = str(response.request.headers.get("Authorization", ""))
        sent = [*(self.form or {}).values(), *re.findall(r'[^\s",=]{8,}', authorised_by)]
        spellings = (str, unquote, quote, quote_plus, lambda text: quote(text, safe=""))
        return [spelled(text) for text in sent for spelled in spellings]


@cache
def _normal(url: str) -> str:
    """The URL as it is sent; working that out with every page of a day costs a tenth of fetching it."""
    request = requests.PreparedRequest()
    request.prepare_url(url, None)
    return str(request.url)


def _of_body(read: Callable[[bytes], Answer]) -> Callable[[bytes, requests.Response], Answer]:
    return lambda body, _: read(body)


class _Passing(Exception):
    """A failure that may pass: worth another attempt."""


class _Fault(_Passing):
    pass


class _TooMany(_Passing):
    def __init__(self, text: str, retry_after_s: float | None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class _TokenRefused(_Passing):
    pass


class _Patience:
    """How much trying one request has left: faults and 429s have a budget each, and time is bounded for both."""

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing
        self._give_up_at = time.monotonic() + pacing.total_s
        self._faults = 0
        self._too_many = 0
        self.renewed = False
        self.pause_s = 0.0

    @property
    def spent(self) -> int:
        """Attempts that failed."""
        return self._faults + self._too_many + self.renewed

    @property
    def is_over(self) -> bool:
        return (
            self._faults > len(self._pacing.after_faults_s)
            or self._too_many >= self._pacing.tries_of_429
            or time.monotonic() + self.pause_s > self._give_up_at
        )

    def spend(self, failure: _Passing) -> None:
        """Count a failed attempt, and set the pause that comes after it."""
        pause_s = 0.0
        if isinstance(failure, _TokenRefused):
            self.renewed = True
        elif isinstance(failure, _TooMany):
            growing_s = min(self._pacing.after_429_s * 2**self._too_many, self._pacing.longest_429_s)
            asked_s = failure.retry_after_s
            pause_s = growing_s if asked_s is None else max(asked_s, self._pacing.after_429_s)
            self._too_many += 1
        else:
            if self._faults < len(self._pacing.after_faults_s):
                pause_s = self._pacing.after_faults_s[self._faults]
            self._faults += 1
        self.pause_s = pause_s * random.uniform(1, 1.25)  # noqa: S311 - jitter, so that workers do not come back at once


def _log_the_wait(state: tenacity.RetryCallState) -> None:
    failure = state.outcome.exception() if state.outcome else None
    pause_s = state.next_action.sleep if state.next_action else 0
    log.warning("%s; trying again in %.1f s", failure, pause_s)


class _NoAuth(AuthBase):
    """Keeps requests from looking for a password in ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _root_cause(error: BaseException) -> BaseException:
    """The innermost of the layers in which requests and urllib3 wrap a failure of the network."""
    cause = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return cause


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _retry_after_s(header: str | None) -> float | None:
    """Seconds, or an HTTP date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _phrase(status: int) -> str:
    """The status in words of our own: the server's could repeat what was sent."""
    return HTTPStatus(status).phrase if status in _STATUSES else ""


def _error_object(body: bytes) -> dict[str, object]:
    try:
        error = json.loads(body)
    except ValueError:
        return {}
    return error if isinstance(error, dict) else {}


def _causes(body: bytes) -> tuple[str, ...]:
    error = _error_object(body)
    causes = error.get("causes") or error.get("message")
    return tuple(map(str, causes if isinstance(causes, list) else [causes])) if causes else ()


def _what_it_says(body: bytes, secrets: list[str]) -> str:
    """What an error's body says, in a line: JSON as documented, HTML, or nothing."""
    error = _error_object(body)
    told = (str(error[key]) for key in ("reason", "message", "error_description") if error.get(key))
    parts = list(dict.fromkeys([*_causes(body), *told]))
    if error.get("internalCode"):
        parts.append(f"internalCode {error['internalCode']}")
    if body.lstrip().startswith(b"["):  # data and no error, perhaps about people
        return ""
    text = "; ".join(parts) or html.unescape(body.decode(errors="replace"))
    for secret in sorted(filter(None, secrets), key=len, reverse=True):  # before anything is cut off
        text = text.replace(secret, "***")
    if not parts:
        text = re.sub(r"<[^>]*>", " ", text[:2000])
    return re.sub(r"\s+", " ", text).strip()[:500]


def _advice(response: requests.Response, hint: str) -> str:
    status = response.status_code
    if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return hint or "check the credentials"
    if response.is_redirect:
        return "redirects are not followed, because credentials would go with them: check the configured URL"
    if status == HTTPStatus.NOT_FOUND:
        return "check LIVEPERSON_ACCOUNT_ID and the URL: the AHT API is off until the account manager enables it"
    return "this answer is not documented"
