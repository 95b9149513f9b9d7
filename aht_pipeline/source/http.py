"""One HTTP request to LivePerson: never redirected, retried as documented, never more at once than allowed."""

from __future__ import annotations

import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote, quote_plus, unquote, urlencode, urlsplit

import requests
import tenacity
import urllib3
from requests.auth import AuthBase
from requests.exceptions import InvalidSchema, InvalidURL, ProxyError
from requests.utils import default_headers
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from aht_pipeline.errors import AhtError
from aht_pipeline.pages import without_mark
from aht_pipeline.source.deadline import BoundedAdapter, end_answers_at, read_whole
from aht_pipeline.source.errors import ApiError, Refused
from aht_pipeline.source.freshness import ASK_FOR_FRESH, Stale, find_stale, http_dates_s
from aht_pipeline.source.refusals import causes_of, masked, phrase, retry_after_s, what_it_says
from aht_pipeline.source.retries import Fault, Pacing, RetryBudget, TokenRefused, TooManyRequests, TransientError
from aht_pipeline.source.route import Proxy, Route, route_to
from aht_pipeline.source.throttle import Abandoned, Throttle

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_SAME_AS_500 = {408, 500, 502, 503, 504}  # and resets, time-outs, cut-off and non-JSON bodies
_REFUSES_WHAT_IS_ASKED = {400, 413, 416, 422}  # documented is the first; gateways and search engines know the others
_MAY_PASS = _SAME_AS_500 | {HTTPStatus.TOO_MANY_REQUESTS}
_OF_THE_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")
_LONGEST_WORDS = 300
_SHORTEST_S = 0.001  # a time-out of 0 would be none


class Authorisation(Protocol):
    """Signs requests; what signed two attempts is equal where both carried the same token."""

    def sign(self, http: Http) -> AuthBase:
        """What authorises one attempt of a request."""

    def renew(self, refused: AuthBase) -> bool:
        """After a 401: True where the next `sign` asks for another token, so that another attempt makes sense."""


class Http:
    """A connection pool with the manners that LivePerson asks for. Safe to use from many threads.

    variables: for a host (and port) that the configuration names, the variable that does.
    """

    def __init__(
        self,
        concurrency: int,
        user_agent: str,
        pacing: Pacing | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.throttle = Throttle(concurrency)
        self.pacing = pacing or Pacing()
        # No session above it: nothing of one is wanted (redirects, cookies), and it takes its time with every page.
        self._adapter = BoundedAdapter(concurrency)
        self._headers = {**default_headers(), **ASK_FOR_FRESH, "User-Agent": user_agent}
        self._variables = variables or {}
        self._routes: dict[str, Route] = {}
        self._reached: set[str] = set()
        self.clock_ahead_s: float | None = None
        """How far our clock was ahead of the last reply's `Date`; None where none was dated so far."""

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
        as_sent: bool = False,
        may_be_cached: bool = False,
    ) -> tuple[Answer, int]:
        """The answer as `read` returns it, and the attempts it took.

        read: takes the body; a ValueError or AhtError of it makes the body a faulty one, an ApiError ends the request.
        hint: what to check when the API says 401 or 403.
        as_sent: `read` takes the body byte for byte; else without the byte order mark with which it may begin.
        may_be_cached: whether an older reply is as good as a new one.
        Raises Refused for a 400 and its like, SettingsError where the environment names a proxy or certificates that
        cannot be used, ApiError for every other failure that outlasts its retries.
        """
        call = _Call(
            "GET",
            url,
            _of_body(read),
            authorisation,
            hint,
            abandon or threading.Event(),
            params=params,
            as_sent=as_sent,
            may_be_cached=may_be_cached,
        )
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
        budget = RetryBudget(self.pacing)

        def attempt() -> Answer:
            if call.abandon.is_set():
                raise Abandoned
            try:
                return self._attempt(call, budget)
            except TransientError as failure:
                budget.spend(failure)
                raise

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            wait=lambda _: budget.pause_s,
            stop=lambda _: budget.is_over,
            sleep=tenacity.sleep_using_event(call.abandon),
            before_sleep=_log_the_wait,
            reraise=True,
        )
        try:
            answer = retrying(attempt)
        except TransientError as failure:
            raise ApiError(budget.last_words(failure)) from None
        return answer, budget.spent + 1

    def _route(self, call: _Call[Answer]) -> Route:
        if call.host not in self._routes:
            self._routes[call.host] = route_to(call.url)
        return self._routes[call.host]

    def _attempt(self, call: _Call[Answer], budget: RetryBudget) -> Answer:
        signer = call.authorisation.sign(self) if call.authorisation else _NoAuth()
        route = self._route(call)
        began_s, over_at_s = time.monotonic(), budget.over_at_s
        try:
            with self.throttle.slot(call.abandon, over_at_s):
                sent_at_s, began_s = time.time(), time.monotonic()
                over_at_s = min(began_s + self.pacing.attempt_s, over_at_s)
                left_s = max(over_at_s - began_s, _SHORTEST_S)
                end_answers_at(over_at_s)
                response = self._adapter.send(
                    call.prepared(self._headers, signer),
                    stream=True,
                    timeout=(min(self.pacing.connect_timeout_s, left_s), min(self.pacing.read_timeout_s, left_s)),
                    verify=route.verify,
                    proxies=route.proxies,
                )
                took_s = time.monotonic() - began_s
                body = read_whole(response)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if time.monotonic() >= over_at_s:
                raise Fault(f"{call}: no whole answer within {over_at_s - began_s:.0f} s") from None
            raise self._unanswered(call, route, error) from None
        self._reached.add(call.host)
        text = without_mark(body)
        if dated_s := http_dates_s(response.headers.get("Date", "")):
            self.clock_ahead_s = min(max(dated_s[-1], sent_at_s), sent_at_s + took_s) - dated_s[-1]
        stale = find_stale(response.headers, sent_at_s, took_s, may_be_kept=call.form is None)
        if stale and not call.may_be_cached and not _names_a_wait(response):
            raise _not_fresh(call, route, response, stale)
        if not call.is_answered_by(response.status_code):
            raise self._failure(call, response, text, signer, budget)
        try:
            answer = call.read(body if call.as_sent else text, response)
        except ApiError:
            raise
        except (ValueError, AhtError) as error:
            raise Fault(f"{call}: {error}") from None
        self.throttle.succeeded()
        return answer

    def _unanswered(self, call: _Call[Answer], route: Route, error: Exception) -> TransientError | ApiError:
        """Why no answer came. What lies with this machine is told at once, unless the host was reached before."""
        layers = list(_layers(error))
        cause, proxy = layers[-1], route.proxy
        name = urlsplit(call.url).hostname
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ApiError(
                f"{call}: the server's certificate is not trusted: {cause}. If an authority of your own signed it, "
                f"have {route.authorities_variable or 'REQUESTS_CA_BUNDLE'} name a file that holds that one too"
            )
        if isinstance(error, (InvalidSchema, InvalidURL)):
            return ApiError(f"{call}: {_named(cause)}; check {self._named_by(call)}")
        if proxy and (answered := _OF_THE_TUNNEL.search(str(cause))):
            return _refused_by_proxy(call, proxy, int(answered[1]))
        text, advice = f"{call}: {_named(cause)}", ""
        is_of_proxy = isinstance(error, ProxyError) or (
            proxy is not None
            and proxy.is_socks
            and any(isinstance(layer, (NewConnectionError, ConnectTimeoutError)) for layer in layers)
        )
        if proxy and is_of_proxy:
            text = f"{call}: {proxy} does not let requests through: {_named(cause)}"
            advice = f"check {proxy.variable} and the proxy, or name {name} in NO_PROXY"
        elif isinstance(cause, socket.gaierror):
            text = f"{call}: the host {name} is not found by this machine: {_named(cause)}"
            advice = f"check this machine's network and DNS, and {self._named_by(call)}"
        if not advice:
            return Fault(text)
        if call.host in self._reached or isinstance(cause, ConnectionResetError):
            return Fault(text, advice=advice)
        return ApiError(f"{text}; {advice}")

    def _named_by(self, call: _Call[Answer]) -> str:
        return self._variables.get(call.host, "what the Domain API names")

    def _failure(
        self,
        call: _Call[Answer],
        response: requests.Response,
        body: bytes,
        signer: AuthBase,
        budget: RetryBudget,
    ) -> TransientError | ApiError:
        status = response.status_code
        said = what_it_says(body, secrets=call.secrets(response))
        text = f"{call}: {status} {phrase(status)}".rstrip() + (f": {said}" if said else "")
        if status in _MAY_PASS:
            return self._told_to_wait(status, text, retry_after_s(response.headers))
        if status in _REFUSES_WHAT_IS_ASKED and call.form is None:  # to a form it means wrong credentials
            return Refused(text, causes_of(body))
        advice = self._advice(call, response)
        if status == HTTPStatus.UNAUTHORIZED and call.authorisation:
            is_first = budget.refused_token is None
            if is_first and call.authorisation.renew(signer):
                return TokenRefused(text, signer)
            if budget.refused_token == signer and call.authorisation.renew(signer):
                return Fault(f"{text}: the token server gave the refused token once more", advice=advice)
        return ApiError(f"{text}; {advice}")

    def _told_to_wait(self, status: int, text: str, asked_s: float | None) -> TransientError:
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            is_awaited = asked_s is not None and asked_s <= self.pacing.total_s
            self.throttle.refused(closed_for_s=asked_s if asked_s and is_awaited else 0)
        else:
            asked_s = asked_s or None  # no wait at all is none to go by
        kind = TooManyRequests if status == HTTPStatus.TOO_MANY_REQUESTS else Fault
        return kind(text if asked_s is None else f"{text}: asks to wait {asked_s:.0f} s", retry_after_s=asked_s)

    def _advice(self, call: _Call[Answer], response: requests.Response) -> str:
        status = response.status_code
        if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return f"{call.hint or 'check the URL'}; and check LIVEPERSON_ACCOUNT_ID"
        if response.is_redirect:
            return "redirects are not followed, because credentials would go with them: check the configured URL"
        if status == HTTPStatus.NOT_FOUND:
            url = self._variables.get(call.host, "the URL")
            return f"check LIVEPERSON_ACCOUNT_ID and {url}: the AHT API is off until the account manager enables it"
        return "this answer is not documented"


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
    as_sent: bool = False
    may_be_cached: bool = False

    @property
    def host(self) -> str:
        """With its port, if the URL names one."""
        return urlsplit(self.url).netloc

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


def _log_the_wait(state: tenacity.RetryCallState) -> None:
    failure = state.outcome.exception() if state.outcome else None
    pause_s = state.next_action.sleep if state.next_action else 0
    log.warning("%s; trying again in %.1f s", failure, pause_s)


class _NoAuth(AuthBase):
    """Keeps requests from looking for a password in ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _names_a_wait(response: requests.Response) -> bool:
    """Whether it is by this reply, of whatever time, that requests slow down."""
    status = response.status_code
    return status == HTTPStatus.TOO_MANY_REQUESTS or (status in _SAME_AS_500 and "Retry-After" in response.headers)


def _refused_by_proxy(call: _Call[Answer], proxy: Proxy, status: int) -> TransientError | ApiError:
    """What a proxy's own answer means, in place of a way through it."""
    text = f"{call}: {proxy} answered {status} {phrase(status)}".rstrip()
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return ApiError(f"{text}: have {proxy.variable} hold the right user and password, http://user:password@host")
    if status in _MAY_PASS:
        return Fault(text, advice=f"try again later, or check {proxy.variable}")
    return ApiError(f"{text}: have the proxy allow {call.host}, or name that host in NO_PROXY")


def _not_fresh(
    call: _Call[Answer], route: Route, response: requests.Response, stale: Stale
) -> TransientError | ApiError:
    through = f" (it is asked through {str(route.proxy).rstrip(',')})" if route.proxy else ""
    advice = stale.advice.format(host=urlsplit(call.url).hostname, proxy=through)
    text = f"{call}: {masked(stale.sign, call.secrets(response))[:_LONGEST_WORDS]}"
    return Fault(text, advice=advice) if stale.may_pass else ApiError(f"{text}; {advice}")


def _layers(error: BaseException) -> Iterator[BaseException]:
    """A failure of the network as requests and urllib3 wrap it, down to the innermost."""
    layer: BaseException | None = error
    while layer is not None:
        yield layer
        layer = layer.__cause__ or layer.__context__


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
