"""A request is authorised, sent to LivePerson alone, repeated as documented, and tells no secret when it fails."""

from __future__ import annotations

import base64
import email.utils
import html
import itertools
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from requests_oauthlib import OAuth1

from aht_pipeline.credentials import AppKeys, ClientCredentialKeys, is_loopback
from aht_pipeline.services import AGENT_ACTIVITY, SENTINEL, URL_VARIABLES
from aht_pipeline.simulator import (
    Cut,
    Endpoint,
    ErrorStatus,
    Fault,
    HtmlError,
    Latency,
    Redirect,
    Reset,
    RevokeTokens,
    Simulator,
    When,
)
from aht_pipeline.simulator.authorisation import oauth1_signature
from aht_pipeline.source import AhtApi, ApiError, NameKind, Pacing, Refused, SegmentQuery, pull_day, read_names
from aht_pipeline.source.api import Reply
from aht_pipeline.source.auth import SignedByApp
from aht_pipeline.source.hosts import resolve
from aht_pipeline.source.http import Http
from aht_pipeline.source.retries import RetryBudget, TooManyRequests
from aht_pipeline.source.throttle import Throttle
from aht_pipeline_tests.reading import (
    APP_KEYS,
    DAY,
    FAST,
    KEYS,
    NOW,
    Answer,
    Asked,
    Pages,
    Reading,
    ids,
    reply,
    rows_of,
)

PERMISSION = "Data > Workforce Management > Agent Activity API"
SOON = timedelta(milliseconds=30)


@pytest.fixture
def reading() -> Iterator[Reading]:
    with ExitStack() as closing:
        yield Reading(closing)


def ask(api: AhtApi, **filters: str) -> Reply:
    """One page of the day."""
    return api.page(SegmentQuery(DAY.window, **filters), 0)


def empty_page(asked: Asked) -> Answer:
    return reply(asked, [], pagination={"count": 0})


def asked_for(sim: Simulator, endpoint: Endpoint) -> int:
    return sum(request.endpoint is endpoint for request in sim.requests)


FAULTS: dict[str, Callable[[When], Fault]] = {
    "408": lambda when: ErrorStatus(408, when=when),
    "500": lambda when: ErrorStatus(500, when=when),
    "502 in HTML": lambda when: HtmlError(502, when),
    "503": lambda when: ErrorStatus(503, when=when),
    "504": lambda when: ErrorStatus(504, when=when),
    "200 in HTML": lambda when: HtmlError(200, when),
    "reset": Reset,
    "body cut off": lambda when: Cut(when=when),
    "JSON cut off": lambda when: Cut(as_json=True, when=when),
}


class TestAFault:
    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
    def test_that_passes_is_outlasted(self, reading: Reading, fault: Callable[[When], Fault]) -> None:
        rows = rows_of(DAY, 5)
        sim = reading.simulator(rows, faults=[fault(When(first=3))])
        pages = Pages()

        pull = pull_day(reading.api(sim, page_size=3), DAY, pages, NOW)

        assert sorted(pages.ids) == sorted(ids(rows))
        assert (pull.requests, pull.retries, len(sim.segment_requests)) == (5, 3, 5)

    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
    def test_that_stays_fails_after_three_repeats(self, reading: Reading, fault: Callable[[When], Fault]) -> None:
        sim = reading.simulator(rows_of(DAY, 5), faults=[fault(When())])

        with pytest.raises(ApiError) as failure:
            pull_day(reading.api(sim), DAY, Pages(), NOW)

        told = str(failure.value)
        assert f"GET {sim.url}/api/account/demo/agent-segments?" in told
        assert f"fromMillis={DAY.window.start_ms}&toMillis={DAY.window.end_ms}&limit=500&offset=0" in told
        assert "given up at attempt 4" in told
        assert len(sim.segment_requests) == 4

    def test_is_told_with_its_status_and_internal_code(
        self, reading: Reading, caplog: pytest.LogCaptureFixture
    ) -> None:
        sim = reading.simulator([], faults=[ErrorStatus(503)])

        with pytest.raises(ApiError, match=r"503 Service Unavailable: .*internalCode [0-9a-f-]{36}"):
            ask(reading.api(sim))

        waits = [record.getMessage() for record in caplog.records if "trying again in" in record.getMessage()]
        assert len(waits) == 3
        assert all("internalCode" in wait for wait in waits)

    def test_is_told_in_the_words_of_its_page_where_it_is_html(self, reading: Reading) -> None:
        sim = reading.simulator([], faults=[HtmlError(502)])

        with pytest.raises(ApiError, match=r"502 Bad Gateway: 502 502 from a gateway; given up"):
            ask(reading.api(sim))

    @pytest.mark.parametrize("on", [Endpoint.TOKEN, Endpoint.DOMAIN])
    @pytest.mark.parametrize("fault", [HtmlError, ErrorStatus])
    def test_of_token_and_domain_is_outlasted_too(
        self, reading: Reading, on: Endpoint, fault: type[HtmlError | ErrorStatus]
    ) -> None:
        status = 200 if fault is HtmlError else 503
        sim = reading.simulator([], faults=[fault(status, when=When(first=3, on=on))])

        ask(reading.api(sim, api_url=None, domain_api_url=sim.url))

        assert asked_for(sim, Endpoint.TOKEN) + asked_for(sim, Endpoint.DOMAIN) == 6

    def test_is_an_answer_that_does_not_come_in_time(self, reading: Reading) -> None:
        sim = reading.simulator([], faults=[Latency(timedelta(seconds=3), When(first=1))])

        assert ask(reading.api(sim, pacing=replace(FAST, read_timeout_s=0.5))).requests == 2

    def test_is_a_server_that_is_not_there(self, reading: Reading) -> None:
        with pytest.raises(ApiError, match=r"127\.0\.0\.1:\d+/.*refused.*given up at attempt 4"):
            ask(reading.api(f"http://127.0.0.1:{closed_port()}"))

    def test_is_waited_for_as_documented(self) -> None:
        assert Pacing().after_faults_s == (5, 10, 15)

    def test_is_repeated_after_each_pause_in_turn(self, reading: Reading) -> None:
        pauses_s = (0.1, 0.2, 0.3)
        sim = reading.simulator([], faults=[ErrorStatus(503, when=When(first=3))])

        ask(reading.api(sim, pacing=replace(FAST, after_faults_s=pauses_s)))

        started_s = [request.started_s for request in sim.segment_requests]
        waited_s = [later - earlier for earlier, later in itertools.pairwise(started_s)]
        assert [waited >= pause for waited, pause in zip(waited_s, pauses_s, strict=True)] == [True] * 3

    def test_is_not_waited_for_longer_than_in_all(self, reading: Reading) -> None:
        sim = reading.simulator([], faults=[ErrorStatus(503)])

        with pytest.raises(ApiError, match=r"503 .*given up at attempt 1"):
            ask(reading.api(sim, pacing=replace(FAST, after_faults_s=(60, 60, 60), total_s=30)))


class Test429:
    def test_is_tried_at_least_five_times(self, reading: Reading) -> None:
        tries = Pacing().tries_of_429
        sim = reading.simulator([], faults=[ErrorStatus(429, when=When(first=tries - 1))])

        assert tries >= 5
        assert ask(reading.api(sim)).requests == tries

    def test_is_not_tried_for_ever(self, reading: Reading) -> None:
        sim = reading.simulator([], faults=[ErrorStatus(429)])

        with pytest.raises(ApiError, match="429 Too Many Requests; given up at attempt 8"):
            ask(reading.api(sim))

        assert len(sim.segment_requests) == 8

    def test_and_faults_have_a_patience_each(self, reading: Reading) -> None:
        faults = [ErrorStatus(429, when=When(first=6)), ErrorStatus(500, when=When(after=6, first=3))]
        sim = reading.simulator([], faults=faults)

        assert ask(reading.api(sim)).requests == 10

    def test_is_repeated_after_the_seconds_that_it_names(self, reading: Reading) -> None:
        sim = reading.simulator([], faults=[ErrorStatus(429, retry_after_s=0.7, when=When(first=1))])

        ask(reading.api(sim))

        refused, repeated = sim.segment_requests
        assert repeated.started_s - refused.started_s >= 0.7

    def test_is_repeated_after_the_date_that_it_names(self, reading: Reading) -> None:
        until = int(time.time()) + 2

        def answer(asked: Asked) -> Answer:
            if len(server.asked_for_segments) == 1:
                return Answer("", 429, {"Retry-After": email.utils.formatdate(until, usegmt=True)})
            return empty_page(asked)

        server = reading.scripted(answer)
        ask(reading.api(server))

        assert server.asked_for_segments[1].at >= until

    @pytest.mark.parametrize("retry_after", ["0", "-3", "Thu, 01 Jan 2026 00:00:00 GMT", "soon", ""])
    def test_is_never_repeated_at_once(self, reading: Reading, retry_after: str) -> None:
        def answer(asked: Asked) -> Answer:
            refuses = len(server.asked_for_segments) == 1
            return Answer("", 429, {"Retry-After": retry_after}) if refuses else empty_page(asked)

        server = reading.scripted(answer)
        ask(reading.api(server, pacing=replace(FAST, after_429_s=0.2, longest_429_s=0.2)))

        refused, repeated = server.asked_for_segments
        assert repeated.at - refused.at >= 0.19  # a wall clock, which may be slewed

    @pytest.mark.parametrize("status", [429, 408, 500, 502, 503, 504])
    @pytest.mark.parametrize("retry_after_s", [901, 86400, 1e9, float("inf")])
    def test_and_faults_with_too_long_a_wait_fail_at_once_and_name_it(
        self, reading: Reading, retry_after_s: float, status: int
    ) -> None:
        sim = reading.simulator([], faults=[ErrorStatus(status, retry_after_s=retry_after_s)])

        with pytest.raises(
            ApiError,
            match=f"{status} .*asks to wait {retry_after_s:.0f} s, longer than what is left of the 900 s .*attempt 1:",
        ):
            ask(reading.api(sim))

        assert len(sim.segment_requests) == 1

    def test_waits_have_a_bounded_total(self, reading: Reading) -> None:
        sim = reading.simulator([], faults=[ErrorStatus(429)])

        with pytest.raises(ApiError, match="429"):
            ask(reading.api(sim, pacing=replace(FAST, after_429_s=0.2, longest_429_s=0.2, total_s=0.5)))

        assert len(sim.segment_requests) < 4

    def test_is_waited_for_a_second_at_first_and_longer_each_time_and_not_by_all_alike(self) -> None:
        def pauses_s() -> list[float]:
            patience, pauses = RetryBudget(Pacing()), []
            for _ in shortest_s:
                patience.spend(TooManyRequests("429"))
                pauses.append(patience.pause_s)
            return pauses

        shortest_s = (1, 2, 4, 8, 16, 32, 60)
        ours, theirs = pauses_s(), pauses_s()
        assert all(least <= pause <= 1.25 * least for least, pause in zip(shortest_s, ours, strict=True))
        assert ours != theirs


class TestAFaultThatNamesItsWait:
    """With Retry-After."""

    @pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
    def test_is_waited_for(self, reading: Reading, status: int) -> None:
        sim = reading.simulator([], faults=[ErrorStatus(status, retry_after_s=0.4, when=When(first=1))])

        ask(reading.api(sim))

        refused, repeated = sim.segment_requests
        assert repeated.started_s - refused.started_s >= 0.4

    def test_is_waited_for_as_often_as_a_429(self, reading: Reading) -> None:
        tries = Pacing().tries_of_429
        sim = reading.simulator([], faults=[ErrorStatus(503, retry_after_s=0.01, when=When(first=tries - 1))])

        assert ask(reading.api(sim)).requests == tries

    @pytest.mark.parametrize("clock_off_s", [0, 7200, -7200])
    def test_until_a_date_is_waited_for_by_the_clock_that_dated_it(self, reading: Reading, clock_off_s: int) -> None:
        def answer(asked: Asked) -> Answer:
            if len(server.asked_for_segments) > 1:
                return empty_page(asked)
            now_s = int(time.time()) + clock_off_s
            dates = {"Date": email.utils.formatdate(now_s, usegmt=True)}
            return Answer(b"", 503, dates | {"Retry-After": email.utils.formatdate(now_s + 2, usegmt=True)})

        server = reading.scripted(answer)
        ask(reading.api(server))

        refused, repeated = server.asked_for_segments
        assert 1.9 <= repeated.at - refused.at < 60  # a wall clock, which may be slewed

    @pytest.mark.parametrize(
        "retry_after", ["0", "-3", "nan", "-inf", "Thu, 01 Jan 2026 00:00:00 GMT", "Thu, 99 Foo", "soon", ""]
    )
    def test_that_is_none_is_a_fault_like_others(self, reading: Reading, retry_after: str) -> None:
        server = reading.scripted(lambda _: Answer(b"", 503, {"Retry-After": retry_after}))

        with pytest.raises(ApiError, match="503 Service Unavailable; given up at attempt 4: try again later"):
            ask(reading.api(server))

    def test_that_is_shorter_than_the_documented_pause_does_not_shorten_it(self, reading: Reading) -> None:
        sim = reading.simulator([], faults=[ErrorStatus(503, retry_after_s=0.01, when=When(first=1))])

        ask(reading.api(sim, pacing=replace(FAST, after_faults_s=(0.4,))))

        refused, repeated = sim.segment_requests
        assert repeated.started_s - refused.started_s >= 0.4


class TestTheThrottle:
    def test_halves_with_every_429_down_to_one(self) -> None:
        throttle = Throttle(8)
        allowed = []
        for _ in range(4):
            throttle.refused(closed_for_s=0)
            allowed.append(throttle.allowed)
        assert allowed == [4, 2, 1, 1]

    def test_rises_with_success_to_no_more_than_it_may(self) -> None:
        throttle = Throttle(4)
        throttle.refused(closed_for_s=0)
        risen = []
        for _ in range(100):
            throttle.succeeded()
            risen.append(throttle.allowed)
        assert sorted(set(risen)) == [2, 3, 4]
        assert risen == sorted(risen)

    def test_lets_nobody_in_while_it_is_closed(self) -> None:
        throttle = Throttle(4)
        began = time.monotonic()
        throttle.refused(closed_for_s=0.3)
        with throttle.slot(threading.Event()):
            assert time.monotonic() - began >= 0.3

    def test_is_waited_for_no_longer_than_a_request_may_take(self, reading: Reading) -> None:
        sim = reading.simulator([])
        api = reading.api(sim, APP_KEYS, pacing=replace(FAST, total_s=0.3))
        api.http.throttle.refused(closed_for_s=60)

        with pytest.raises(ApiError, match="no whole answer within"):
            ask(api)

        assert sim.requests == []


class TestAnAnswerThatIsFinal:
    def test_400_is_shown_with_its_causes_and_not_repeated(self, reading: Reading) -> None:
        sim = reading.simulator([])

        with pytest.raises(Refused, match=r"400 Bad Request: source: must match") as failure:
            ask(reading.api(sim, source="has-a-hyphen"))

        assert len(sim.segment_requests) == 1
        assert failure.value.causes == ('source: must match "^[a-zA-Z0-9_]+$"',)

    @pytest.mark.parametrize(
        "body",
        [b"", b"<html><body><h1>No</h1></body></html>", b"[]", b'"no"', b"{}", b'{"causes": "no"}', b"\xff\xfe"],
    )
    def test_400_may_have_any_body(self, reading: Reading, body: bytes) -> None:
        server = reading.scripted(lambda _: Answer(body, 400))

        with pytest.raises(Refused, match="400 Bad Request"):
            ask(reading.api(server))

    @pytest.mark.parametrize(
        ("status", "advice"),
        [
            (401, PERMISSION),
            (403, PERMISSION),
            *((status, "LIVEPERSON_ACCOUNT_ID") for status in (401, 403, 404)),
            (418, "not documented"),
        ],
    )
    def test_other_statuses_say_what_to_check(self, reading: Reading, status: int, advice: str) -> None:
        sim = reading.simulator([], faults=[ErrorStatus(status)])

        with pytest.raises(ApiError, match=f"{status} .*{re.escape(advice)}"):
            ask(reading.api(sim, APP_KEYS))

        assert len(sim.segment_requests) == 1

    @pytest.mark.parametrize("status", [401, 403, 404])
    @pytest.mark.parametrize("on", [Endpoint.TOKEN, Endpoint.DOMAIN, Endpoint.SKILLS])
    def test_of_any_other_service_names_the_account_too(self, reading: Reading, on: Endpoint, status: int) -> None:
        sim = reading.simulator([], faults=[ErrorStatus(status, when=When(on=on))])
        api = reading.api(sim, api_url=None, domain_api_url=sim.url)

        with pytest.raises(ApiError, match=f"{status} .*LIVEPERSON_ACCOUNT_ID"):
            read_names(api, NameKind.SKILL)

    def test_a_success_that_is_not_200_is_none(self, reading: Reading) -> None:
        server = reading.scripted(lambda asked: replace(empty_page(asked), status=206))

        with pytest.raises(ApiError, match="206 Partial Content"):
            ask(reading.api(server))

    @pytest.mark.parametrize("on", [Endpoint.DOMAIN, Endpoint.TOKEN, Endpoint.SEGMENTS])
    def test_a_redirect_is_not_followed(self, reading: Reading, on: Endpoint) -> None:
        elsewhere = reading.scripted(empty_page)
        sim = reading.simulator([], faults=[Redirect(f"{elsewhere.url}/app/token", When(on=on))])

        with pytest.raises(ApiError, match=r"302 Found.*redirects are not followed"):
            ask(reading.api(sim, api_url=None, domain_api_url=sim.url))

        assert elsewhere.asked == []
        assert asked_for(sim, on) == 1


class TestOverTls:
    def test_a_certificate_that_is_not_trusted_is_told_and_not_tried_again(
        self, reading: Reading, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # they would switch the check on where we did not
            monkeypatch.delenv(name, raising=False)
        with tls_server(tmp_path) as port, pytest.raises(ApiError, match="certificate is not trusted") as failure:
            ask(reading.api(f"https://127.0.0.1:{port}"))

        assert "attempt" not in str(failure.value)

    def test_a_connection_that_ends_while_it_is_secured_is_a_passing_fault(self, reading: Reading) -> None:
        with hanging_up() as (port, calls), pytest.raises(ApiError, match="given up at attempt 4") as failure:
            ask(reading.api(f"https://127.0.0.1:{port}"))

        assert "certificate" not in str(failure.value)
        assert len(calls) == 4


def test_plain_http_goes_to_this_machine_and_through_no_proxy(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    assert ask(reading.api(reading.simulator([]))).requests == 1


def test_no_password_is_looked_for_in_netrc(reading: Reading, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password something")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    sim = reading.simulator([])

    ask(reading.api(sim, api_url=None, domain_api_url=sim.url))

    domain = [request for request in sim.requests if request.endpoint is Endpoint.DOMAIN]
    assert domain
    assert not any(request.with_credentials for request in domain)


def test_the_caller_names_itself(reading: Reading) -> None:
    with hanging_up(listens=True) as (port, calls), pytest.raises(ApiError):
        ask(reading.api(f"http://127.0.0.1:{port}"))

    assert b"User-Agent: aht-pipeline/" in calls[0]


def opaque() -> str:
    return "opaque-token"


def expired_jwt() -> str:
    return jwt(-1)


def fresh_jwt() -> str:
    return jwt(3600)


def short_jwt_of_another_clock() -> str:
    """Lives for a second, by a clock that is two hours ahead of ours."""
    return jwt(7201, issued_in_s=7200)


def jwt_that_ends_before_it_begins() -> str:
    return jwt(3600, issued_in_s=7200)


def jwt(expires_in_s: float, issued_in_s: float | None = None) -> str:
    def encoded(part: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")

    now = int(time.time())
    claims = {"exp": now + expires_in_s} | ({} if issued_in_s is None else {"iat": now + issued_in_s})
    return f"{encoded({'alg': 'HS256'})}.{encoded(claims)}.c2lnbmF0dXJl"


class TestABearerToken:
    def test_is_fetched_once_for_many_threads(self, reading: Reading) -> None:
        sim = reading.simulator([], faults=[Latency(SOON, When(on=Endpoint.TOKEN))])
        api = reading.api(sim, concurrency=8)

        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: ask(api), range(16)))

        assert len(replies) == 16
        assert asked_for(sim, Endpoint.TOKEN) == 1

    def test_is_renewed_before_it_expires(self, reading: Reading) -> None:
        sim = reading.simulator([], token_lifetime_s=2)
        api = reading.api(sim)

        ask(api)
        time.sleep(1.1)
        ask(api)

        assert asked_for(sim, Endpoint.TOKEN) == 2
        assert [request.status for request in sim.segment_requests] == [200, 200]

    @pytest.mark.parametrize(
        ("lifetime", "token", "fetched"),
        [
            ({"expires_in": 3600}, opaque, 1),
            ({"expires_in": "3600"}, opaque, 1),
            ({"expires_in": 3600.5}, opaque, 1),
            ({"expires_in": 30}, opaque, 1),
            ({"expires_in": [3600]}, opaque, 1),
            ({"expires_in": float("inf")}, opaque, 1),
            *(
                ({"expires_in": nothing}, opaque, 1)
                for nothing in (0, "0", -1, "-1", 0.01, "nan", "inf", "soon", "", "true")
            ),
            ({"expires_in": 3600}, expired_jwt, 1),
            ({"expires_in": "soon"}, expired_jwt, 1),
            ({"expires_in": None}, expired_jwt, 1),
            ({}, expired_jwt, 1),
            ({}, fresh_jwt, 1),
            ({}, jwt_that_ends_before_it_begins, 1),
            ({}, short_jwt_of_another_clock, 2),
            ({"expires_in": 0}, short_jwt_of_another_clock, 2),
            ({"expires_in": 3600}, short_jwt_of_another_clock, 1),
            ({}, opaque, 1),
            ({}, lambda: "not.a-jwt.at-all", 1),
        ],
    )
    def test_lives_as_long_as_its_answer_says(
        self, reading: Reading, lifetime: dict[str, Any], token: Callable[[], str], fetched: int
    ) -> None:
        granted = {"access_token": token(), "token_type": "Bearer"} | lifetime
        server = reading.scripted(empty_page, token=lambda _: Answer(granted))
        api = reading.api(server)

        ask(api)
        if fetched > 1:
            time.sleep(0.6)  # over half of its second
        ask(api)

        assert len(server.asked_for_tokens) == fetched
        assert {asked.authorization for asked in server.asked_for_segments} == {f"Bearer {granted['access_token']}"}

    def test_is_asked_for_as_documented(self, reading: Reading) -> None:
        server = reading.scripted(empty_page)

        ask(reading.api(server, ClientCredentialKeys("an id", "a/secret+&")))

        (asked,) = server.asked_for_tokens
        assert (asked.method, asked.path) == ("POST", "/sentinel/api/v2/account/demo/app/token")
        assert asked.body == "client_id=an+id&client_secret=a%2Fsecret%2B%26&grant_type=client_credentials"
        assert asked.authorization == ""

    def test_that_is_revoked_in_mid_walk_is_renewed_once_for_all_threads(self, reading: Reading) -> None:
        rows = rows_of(DAY, 30)
        faults = [Latency(SOON), RevokeTokens(When(after=6, first=1))]
        sim = reading.simulator(rows, faults=faults)
        pages = Pages()

        pull = pull_day(reading.api(sim, page_size=2), DAY, pages, NOW)

        assert sorted(pages.ids) == sorted(ids(rows))
        assert asked_for(sim, Endpoint.TOKEN) == 2
        assert pull.retries >= 1
        assert pull.requests == len(sim.segment_requests)

    def test_that_says_no_lifetime_is_used_until_it_is_refused(self, reading: Reading) -> None:
        granted = [Answer({"access_token": token, "expires_in": 0}) for token in ("first", "second")]

        def answer(asked: Asked) -> Answer:
            is_revoked = len(server.asked_for_segments) == 4
            return Answer({"reason": "revoked"}, 401) if is_revoked else empty_page(asked)

        server = reading.scripted(answer, token=lambda _: granted.pop(0))
        api = reading.api(server)
        for _ in range(6):
            ask(api)

        used = [asked.authorization for asked in server.asked_for_segments]
        assert used == ["Bearer first"] * 4 + ["Bearer second"] * 3

    @pytest.mark.parametrize("threads", [1, 8])
    def test_that_is_given_once_more_after_it_was_refused_is_waited_out(self, reading: Reading, threads: int) -> None:
        given = itertools.chain(["old"] * 3, itertools.repeat("new"))

        def answer(asked: Asked) -> Answer:
            is_old = asked.authorization == "Bearer old"
            return Answer({"reason": "oauth_problem=token_rejected"}, 401) if is_old else empty_page(asked)

        server = reading.scripted(answer, token=lambda _: Answer({"access_token": next(given), "expires_in": 3600}))
        api = reading.api(server, concurrency=threads, pacing=replace(FAST, after_faults_s=(0.1, 0.1, 0.1)))

        with ThreadPoolExecutor(threads) as pool:
            replies = list(pool.map(lambda _: ask(api), range(threads)))

        assert len(replies) == threads
        assert len(server.asked_for_tokens) == 4

    def test_that_is_given_again_and_again_fails_and_names_the_permission(self, reading: Reading) -> None:
        server = reading.scripted(lambda _: Answer({"reason": "no"}, 401))

        with pytest.raises(ApiError, match=f"401 .*once more; given up at attempt 5: .*{PERMISSION}"):
            ask(reading.api(server))

    def test_that_cannot_be_fetched_fails_all_who_wait_for_it_at_once(self, reading: Reading) -> None:
        server = reading.scripted(empty_page, token=lambda _: Answer(b"", 503))
        api = reading.api(server, concurrency=8, pacing=replace(FAST, after_faults_s=(0.1, 0.1, 0.1)))

        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, api) for _ in range(8)]
            failures = [str(page.exception()) for page in asked]

        assert all("503 Service Unavailable; given up at attempt 4" in failure for failure in failures)
        assert len(server.asked_for_tokens) == 4

    def test_that_stays_refused_fails_and_names_the_permission(self, reading: Reading) -> None:
        sim = reading.simulator([], faults=[ErrorStatus(401)])

        with pytest.raises(ApiError, match=f"401 Unauthorized.*{PERMISSION}"):
            ask(reading.api(sim))

        assert len(sim.segment_requests) == 2
        assert asked_for(sim, Endpoint.TOKEN) == 2

    @pytest.mark.parametrize("status", [400, 401, 403])
    def test_for_a_wrong_secret_is_refused_and_names_the_variables(self, reading: Reading, status: int) -> None:
        server = reading.scripted(empty_page, token=lambda _: Answer({"error": "invalid_client"}, status))

        with pytest.raises(
            ApiError, match=f"{status} .*LIVEPERSON_CLIENT_ID and LIVEPERSON_CLIENT_SECRET.*LIVEPERSON_ACCOUNT_ID"
        ):
            ask(reading.api(server, TELLTALE))

        assert len(server.asked) == 1

    def test_for_a_wrong_secret_is_not_asked_for_again(self, reading: Reading) -> None:
        sim = reading.simulator([])

        with pytest.raises(ApiError, match="LIVEPERSON_CLIENT_SECRET") as failure:
            ask(reading.api(sim, ClientCredentialKeys("demo-client", "a-wrong-secret")))

        assert "a-wrong-secret" not in str(failure.value)
        assert [request.endpoint for request in sim.requests] == [Endpoint.TOKEN]

    @pytest.mark.parametrize("granted", [{}, [], {"access_token": None}, {"access_token": "two\r\nlines"}])
    def test_that_is_none_fails_and_is_not_shown(self, reading: Reading, granted: object) -> None:
        server = reading.scripted(empty_page, token=lambda _: Answer(granted))

        with pytest.raises(ApiError, match="no access_token") as failure:
            ask(reading.api(server))

        assert "lines" not in str(failure.value)
        assert server.asked_for_segments == []


VECTOR_KEYS = AppKeys("ck-example", "cs-example", "tk-example", "ts-example")
VECTOR_URL = "https://va.agent-activity.example.test/api/account/12345678/agent-segments?source=etl_test"


class TestAnAppKey:
    @pytest.mark.parametrize(
        ("query", "signature"),
        [
            ("&fromMillis=1767225600000&toMillis=1767312000000&limit=500&offset=0", "1Zi3mNJGF0NT2PdTXGDfh3qdQ2w="),
            (
                "&from=2026-01-01T00%3A00%3A00%2B02%3A00&to=2026-01-02T00%3A00%3A00%2B02%3A00&limit=2&offset=2",
                "PzXBV5DVhLQ6rkuR49HjbH02Tfk=",
            ),
        ],
    )
    def test_signs_as_the_documented_vectors(self, query: str, signature: str) -> None:
        signer = SignedByApp(VECTOR_KEYS).sign(Http(1, "tests"))
        assert isinstance(signer, OAuth1)
        signer.client.nonce, signer.client.timestamp = "nonce-1", "1767322800"  # the library's own parameters

        signed = signer(requests.Request("GET", VECTOR_URL + query).prepare())

        assert oauth_of(signed.headers["Authorization"])["oauth_signature"] == signature

    def test_signs_every_attempt_anew(self, reading: Reading) -> None:
        def answer(asked: Asked) -> Answer:
            attempt = len(server.asked_for_segments)
            return Answer({"message": "no"}, (500, 429, 503)[attempt - 1]) if attempt <= 3 else empty_page(asked)

        server = reading.scripted(answer)

        assert ask(reading.api(server, APP_KEYS), employee_id="a b+c").requests == 4

        signed = [oauth_of(asked.authorization) for asked in server.asked_for_segments]
        assert len({oauth["oauth_nonce"] for oauth in signed}) == 4
        assert server.asked_for_tokens == []
        for asked, oauth in zip(server.asked_for_segments, signed, strict=True):
            everything = [*asked.query.items(), *((k, v) for k, v in oauth.items() if k != "oauth_signature")]
            assert oauth["oauth_signature"] == oauth1_signature(
                "GET", server.url + asked.path, everything, APP_KEYS.app_secret, APP_KEYS.access_token_secret
            )

    def test_pulls_a_day_through_faults(self, reading: Reading) -> None:
        rows = rows_of(DAY, 20)
        faults = [ErrorStatus(500, when=When(every=4)), ErrorStatus(429, when=When(every=5))]
        sim = reading.simulator(rows, faults=faults)
        pages = Pages()

        pull_day(reading.api(sim, APP_KEYS, page_size=2), DAY, pages, NOW)

        assert sorted(pages.ids) == sorted(ids(rows))
        assert 401 not in {request.status for request in sim.requests}

    def test_that_is_refused_fails_at_once_and_names_the_permission(self, reading: Reading) -> None:
        sim = reading.simulator([])

        with pytest.raises(ApiError, match=f"401 Unauthorized: .*oauth_problem=signature_invalid.*{PERMISSION}"):
            ask(reading.api(sim, replace(APP_KEYS, app_secret="another")))

        assert len(sim.segment_requests) == 1


class TestAByteOrderMark:
    @pytest.mark.parametrize("of", ["baseURI.json", "app/token", "skills"])
    def test_before_an_answer_is_taken_off(self, reading: Reading, of: str) -> None:
        def answer(asked: Asked) -> Answer:
            if asked.path.endswith("baseURI.json"):
                service = asked.path.split("/")[-2]
                body: object = {"service": service, "baseURI": server.url.removeprefix("http://")}
            else:
                body = [{"id": 7, "name": "a skill"}]
            return marked(asked, body)

        def marked(asked: Asked, body: object) -> Answer:
            mark = b"\xef\xbb\xbf" if asked.path.endswith(of) else b""
            return Answer(mark + json.dumps(body).encode())

        server = reading.scripted(answer, token=lambda asked: marked(asked, {"access_token": "a-token"}))
        names = read_names(reading.api(server, api_url=None, domain_api_url=server.url), NameKind.SKILL)

        assert names is not None
        assert [name.name for name in names.names] == ["a skill"]

    def test_before_a_refusal_is_taken_off(self, reading: Reading) -> None:
        server = reading.scripted(lambda _: Answer(b'\xef\xbb\xbf{"causes": ["limit: no", "from: no"]}', 400))

        with pytest.raises(Refused, match=r"400 Bad Request: limit: no; from: no$") as refused:
            ask(reading.api(server))

        assert refused.value.causes == ("limit: no", "from: no")

    def test_before_a_page_is_kept_with_it(self, reading: Reading) -> None:
        body = b'\xef\xbb\xbf{"segments": []}'
        taken: list[bytes] = []
        server = reading.scripted(lambda _: Answer(body))
        api = reading.api(server)

        api.http.get(server.url, {}, taken.append, as_sent=True)
        api.http.get(server.url, {}, taken.append)

        assert taken == [body, body[3:]]


TELLTALE = ClientCredentialKeys("a-client-id", 'S3cr"et/+ &=<x>%41')
TELLTALE_APP = AppKeys("an-app-key", "app-S3cret", "tok/en+of=the&app", "token-S3cret")
WAYS_TO_ECHO: dict[str, Callable[[str], object]] = {
    "message": lambda echoed: {"message": f"cannot take {echoed}"},
    "causes": lambda echoed: {"causes": [echoed], "message": echoed},
    "reason": lambda echoed: {"reason": f"oauth_problem={echoed}", "internalCode": echoed},
    "HTML": lambda echoed: f"<html><p>{html.escape(echoed)}</p></html>".encode(),
    "plain": lambda echoed: echoed.encode(),
    "quoted": lambda echoed: quote(echoed).encode(),
    "form": lambda echoed: quote_plus(echoed).encode(),
    "cut through": lambda echoed: f"{'x' * 480} {echoed}".encode(),
    "far down": lambda echoed: (f"<{'x' * 1985}>" + echoed).encode(),
}


class TestASecretThatIsEchoed:
    @pytest.mark.parametrize("status", [400, 401, 500])
    @pytest.mark.parametrize("echo", WAYS_TO_ECHO.values(), ids=WAYS_TO_ECHO)
    def test_by_the_token_server_is_not_told(
        self, reading: Reading, caplog: pytest.LogCaptureFixture, echo: Callable[[str], object], status: int
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server = reading.scripted(empty_page, token=lambda _: Answer(echo(TELLTALE.client_secret), status))

        with pytest.raises(ApiError) as failure:
            ask(reading.api(server, TELLTALE))

        assert_untold(failure.value, caplog, 'S3cr"et', "S3cr", "%22et")

    @pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
    @pytest.mark.parametrize("echo", WAYS_TO_ECHO.values(), ids=WAYS_TO_ECHO)
    def test_as_a_token_is_not_told(
        self, reading: Reading, caplog: pytest.LogCaptureFixture, echo: Callable[[str], object], status: int
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server = reading.scripted(lambda asked: Answer(echo(asked.authorization), status))

        with pytest.raises(ApiError) as failure:
            ask(reading.api(server))

        assert_untold(failure.value, caplog, "a-token-of-the-script", "a-token")

    @pytest.mark.parametrize("echo", WAYS_TO_ECHO.values(), ids=WAYS_TO_ECHO)
    def test_as_a_signature_is_not_told(
        self, reading: Reading, caplog: pytest.LogCaptureFixture, echo: Callable[[str], object]
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server = reading.scripted(lambda asked: Answer(echo(unquote(asked.authorization)), 500))

        with pytest.raises(ApiError) as failure:
            ask(reading.api(server, TELLTALE_APP))

        signatures = [oauth_of(asked.authorization)["oauth_signature"] for asked in server.asked_for_segments]
        assert_untold(failure.value, caplog, TELLTALE_APP.access_token, "S3cret", *signatures)

    def test_is_in_no_repr(self, reading: Reading) -> None:
        api = reading.api(reading.simulator([]))
        ask(api)

        shown = repr([api, api.http, vars(api), KEYS, APP_KEYS, TELLTALE, TELLTALE_APP])
        for secret in (KEYS.client_secret, APP_KEYS.app_secret, APP_KEYS.access_token_secret, "S3cr"):
            assert secret not in shown


class TestAHost:
    @pytest.mark.parametrize("shape", ["object", "list"])
    def test_is_looked_up_in_either_shape_of_the_answer(self, reading: Reading, shape: str) -> None:
        rows = rows_of(DAY, 2)
        sim = reading.simulator(rows, one_service=shape)
        api = reading.api(sim, api_url=None, domain_api_url=f"{sim.url}/")

        assert ids(json.loads(ask(api).body)["segments"]) == [*reversed(ids(rows))]
        ask(api)

        domain = [request for request in sim.requests if request.endpoint is Endpoint.DOMAIN]
        assert [request.path for request in domain] == [
            f"/api/account/demo/service/{service}/baseURI.json" for service in ("agentActivityDomain", "sentinel")
        ]
        assert {request.query for request in domain} == {"version=1.0"}

    def test_is_found_among_all_services(self, reading: Reading) -> None:
        entries = [
            {"service": "sentinel", "account": "demo", "baseURI": "sentinel.liveperson.net"},
            {"service": "AgentActivityDomain", "account": "demo", "baseURI": "wrong.liveperson.net"},
            {"service": "agentActivityDomain", "account": "demo", "baseURI": "right.liveperson.net"},
        ]
        server = reading.scripted(lambda _: Answer({"baseURIs": entries}))

        assert look_up(server.url, AGENT_ACTIVITY) == "https://right.liveperson.net"
        assert look_up(server.url, SENTINEL) == "https://sentinel.liveperson.net"

    @pytest.mark.parametrize(
        ("named", "url"),
        [
            ("va.agentactivity.liveperson.net", "https://va.agentactivity.liveperson.net"),
            ("VA.AgentActivity.LivePerson.NET", "https://VA.AgentActivity.LivePerson.NET"),
            ("va.liveperson.net:443", "https://va.liveperson.net:443"),
            ("https://va.liveperson.net/", "https://va.liveperson.net"),
            ("http://va.liveperson.net", "https://va.liveperson.net"),
            ("HTTPS://ause1.lpcloud.io", "https://ause1.lpcloud.io"),
            ("http://va.lpcloud.io:80/", "https://va.lpcloud.io"),
            ("http://va.lpcloud.io:8080", "https://va.lpcloud.io:8080"),
            ("va.liveperson.net/a-path/", "https://va.liveperson.net/a-path"),
            ("https://VA.LPCloud.IO:8443/a/b%20c/", "https://VA.LPCloud.IO:8443/a/b%20c"),
            ("http://127.0.0.1:8080/a-path/", "http://127.0.0.1:8080/a-path"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("localhost", "http://localhost"),
            ("[::1]:8080", "http://[::1]:8080"),
        ],
    )
    def test_of_liveperson_is_reached_by_https_and_one_of_this_machine_by_http(
        self, reading: Reading, named: str, url: str
    ) -> None:
        sim = reading.simulator([], base_uri=named)

        assert look_up(sim.url, AGENT_ACTIVITY) == url

    @pytest.mark.parametrize(
        "named",
        [
            "evil.com",
            "evil-liveperson.net",
            "liveperson.net",
            "liveperson.net.evil.com",
            "va.liveperson.net.",
            "x@evil.com",
            "x@va.liveperson.net",
            "va.liveperson.net@evil.com",
            "va.liveperson.net:443@evil.com",
            "va.liveperson.net:x@evil.com/.liveperson.net",
            "evil.com/.liveperson.net",
            "evil.com/x.liveperson.net",
            "evil.com?x.liveperson.net",
            "evil.com#x.liveperson.net",
            "evil.com\\x.liveperson.net",
            "evil.com\\@x.liveperson.net",
            "evil.com x.liveperson.net",
            "va.liveperson.net/path?query",
            "va.liveperson.net/path#fragment",
            "va.liveperson.net?",
            "va.liveperson.net/a/../b",
            "va.liveperson.net:",
            "va.liveperson.net:0",
            "va.liveperson.net:80:443",
            ".liveperson.net",
            "va..liveperson.net",
            "evil.com/va.lpcloud.io",
            "evil-lpcloud.io",
            "lpcloud.io",
            "va.lpcloud.io.evil.com",
            "https://user:password@va.lpcloud.io",
            "va.liveperson.net\r\nx",
            "ev\u0131l.com",
            "va.\uff4civeperson.net",
            "ftp://va.liveperson.net",
            "//va.liveperson.net:x",
            "10.0.0.1",
            "127.0.0.1@evil.com",
            "127.0.0.1:80@evil.com",
            "127.0.0.1.evil.com",
            "[:::1]",
            "[::1",
            "",
            ":443",
        ],
    )
    def test_elsewhere_is_refused_and_sent_nothing(self, reading: Reading, named: str) -> None:
        server = reading.scripted(lambda _: Answer({"service": "agentActivityDomain", "baseURI": named}))

        with pytest.raises(ApiError, match=r"no credentials are sent there.*LIVEPERSON_AGENT_ACTIVITY_URL"):
            ask(reading.api(server, api_url=None, domain_api_url=server.url))

        assert [asked.path for asked in server.asked] == ["/api/account/demo/service/agentActivityDomain/baseURI.json"]
        assert {asked.authorization + asked.body for asked in server.asked} == {""}

    @pytest.mark.parametrize(
        "answer",
        [
            {},
            [],
            None,
            {"baseURIs": []},
            {"baseURIs": None},
            {"baseURIs": 7},
            {"baseURIs": [None, {"service": "sentinel", "baseURI": "x.liveperson.net"}]},
            {"service": "agentActivityDomain", "baseURI": None},
        ],
    )
    def test_that_is_not_named_fails_with_what_to_check(self, reading: Reading, answer: object) -> None:
        server = reading.scripted(lambda _: Answer(answer))

        with pytest.raises(ApiError, match=r"no service 'agentActivityDomain'.*LIVEPERSON_ACCOUNT_ID"):
            ask(reading.api(server, api_url=None, domain_api_url=server.url))

    def test_of_a_service_that_is_elsewhere_is_refused_by_the_variable_of_that_service(self, reading: Reading) -> None:
        sim = reading.simulator([], base_uri="evil.com")

        for service, variable in URL_VARIABLES.items():
            with pytest.raises(ApiError, match=f"'evil.com' for {service}.* set {variable} to it"):
                look_up(sim.url, service)

    def test_that_is_given_wins_over_the_one_for_all_which_wins_over_the_domain_api(self, reading: Reading) -> None:
        given, for_all = reading.scripted(empty_page), reading.scripted(empty_page)
        domain = reading.simulator([])

        urls = {AGENT_ACTIVITY: f"{given.url}/"}
        ask(reading.api(for_all, service_urls=urls, domain_api_url=domain.url))
        assert (len(given.asked_for_segments), len(given.asked_for_tokens)) == (1, 0)
        assert (len(for_all.asked_for_segments), len(for_all.asked_for_tokens)) == (0, 1)
        assert domain.requests == []

        urls = {SENTINEL: given.url}
        ask(reading.api(for_all, APP_KEYS, api_url=None, service_urls=urls, domain_api_url=domain.url))
        assert [request.endpoint for request in domain.requests] == [Endpoint.DOMAIN, Endpoint.SEGMENTS]

    def test_of_an_unknown_account_is_told_by_its_variable(self, reading: Reading) -> None:
        sim = reading.simulator([], account="another")

        with pytest.raises(ApiError, match=r"404 Not Found.*LIVEPERSON_ACCOUNT_ID"):
            ask(reading.api(sim, api_url=None, domain_api_url=sim.url))

    def test_is_this_machine_only_by_a_loopback_name_or_address(self) -> None:
        here = ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "::1"]
        elsewhere = [None, "", "localhost.evil.com", "127.0.0.1.evil.com", "0.0.0.0", "10.0.0.1", "::2", "127.1"]
        assert [host for host in here + elsewhere if is_loopback(host)] == here


def look_up(domain_api_url: str, service: str) -> str:
    http = Http(1, "tests", FAST)
    try:
        return resolve(http, domain_api_url, "demo", service)
    finally:
        http.close()


def assert_untold(error: ApiError, caplog: pytest.LogCaptureFixture, *secrets: str) -> None:
    told = "\n".join([str(error), repr(error), *(record.getMessage() for record in caplog.records)])
    assert "agent-segments" in told or "app/token" in told
    for secret in secrets:
        assert secret not in told
    assert error.__cause__ is None


def oauth_of(authorization: str | bytes) -> dict[str, str]:
    """The parameters of an OAuth 1.0 header (which the library leaves as bytes)."""
    header = authorization.decode() if isinstance(authorization, bytes) else authorization
    pairs = re.findall(r'(oauth_\w+)="([^"]*)"', header)
    return {name: unquote(value) for name, value in pairs}


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class hanging_up:  # noqa: N801 - used as a statement
    """A server that closes every connection, or, if it `listens`, every request. Gives its port and what it heard."""

    def __init__(self, listens: bool = False) -> None:
        self.heard: list[bytes] = []
        self.listens = listens

    def __enter__(self) -> tuple[int, list[bytes]]:
        self.server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return int(self.server.getsockname()[1]), self.heard

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                self.heard.append(connection.recv(65536) if self.listens else b"")

    def __exit__(self, *_: object) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


class tls_server:  # noqa: N801
    """A server for https whose certificate nobody signed. Gives its port."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=1))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        self.file = folder / "server.pem"
        self.file.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + certificate.public_bytes(pem)
        )

    def __enter__(self) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file)
        self.server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return int(self.server.server_address[1])

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
