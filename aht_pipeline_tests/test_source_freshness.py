"""A reply that a cache kept, or that another time dates, is no reply: the day is red, and the cache or clock named."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import pytest

from aht_pipeline.simulator import Cached, Endpoint, ExplicitTraffic, Misdated, When
from aht_pipeline.source import AhtApi, ApiError, NameKind, SegmentQuery, pull_day, read_names
from aht_pipeline_tests.reading import APP_KEYS, DAY, FAST, NOW, Answer, Asked, Pages, Reading, ids, reply, rows_of

DAYS_OLD = timedelta(hours=25)


@pytest.fixture
def reading() -> Iterator[Reading]:
    with ExitStack() as closing:
        yield Reading(closing)


def ask(api: AhtApi) -> int:
    return api.page(SegmentQuery(DAY.window), 0).requests


def with_headers(reading: Reading, **headers: str) -> AhtApi:
    """An API, in front of which stands what adds these headers (`_` for `-`)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    server = reading.scripted(lambda asked: replace(reply(asked, [], pagination={"count": 0}), headers=named))
    return reading.api(server, APP_KEYS)


@pytest.mark.parametrize("told", [True, False], ids=["with an Age", "with an old Date"])
def test_a_day_that_a_cache_answers_is_never_taken_for_read(reading: Reading, told: bool) -> None:
    rows = rows_of(DAY, 7)
    late = ExplicitTraffic(rows[:5])
    sim = reading.simulator(late, faults=[Cached(DAYS_OLD, told)])
    api = reading.api(sim, page_size=3)
    pull_day(api, DAY, Pages(), NOW)
    for row in rows[5:]:
        late.add(row)

    with pytest.raises(ApiError, match=r"a cache answered .*attempt 4: .*exclude 127\.0\.0\.1 from caching"):
        pull_day(api, DAY, Pages(), NOW)

    sim.set_faults()
    pages = Pages()
    pull_day(api, DAY, pages, NOW)
    assert sorted(pages.ids) == sorted(ids(rows))


def test_a_cache_that_answers_once_is_outlasted(reading: Reading) -> None:
    sim = reading.simulator([], faults=[Cached(DAYS_OLD, when=When(first=3))])
    api = reading.api(sim)
    ask(api)

    assert ask(api) == 3


def test_every_request_asks_to_be_answered_anew(reading: Reading) -> None:
    server = reading.scripted(lambda asked: reply(asked, [], pagination={"count": 0}))
    ask(reading.api(server))

    for asked in (*server.asked_for_tokens, *server.asked_for_segments):
        assert (asked.headers["cache-control"], asked.headers["pragma"]) == ("no-cache", "no-cache")


@pytest.mark.parametrize("told", [True, False], ids=["with an Age", "with an old Date"])
def test_a_token_that_a_cache_kept_is_none(reading: Reading, told: bool) -> None:
    sim = reading.simulator([], faults=[Cached(DAYS_OLD, told, When(on=Endpoint.TOKEN))])
    ask(reading.api(sim))

    with pytest.raises(ApiError, match=r"app/token: .*a cache answered"):
        ask(reading.api(sim))


@pytest.mark.parametrize("told", [True, False], ids=["with an Age", "with an old Date"])
def test_names_that_a_cache_kept_are_none(reading: Reading, told: bool) -> None:
    sim = reading.simulator([], faults=[Cached(DAYS_OLD, told, When(on=Endpoint.SKILLS))])
    api = reading.api(sim)
    assert read_names(api, NameKind.SKILL) is not None

    with pytest.raises(ApiError, match=r"skills.*a cache answered"):
        read_names(api, NameKind.SKILL)


def test_that_nothing_has_changed_is_not_taken_from_a_cache(reading: Reading) -> None:
    server = reading.scripted(lambda _: Answer(b"", 304, {"Age": "90000"}))

    with pytest.raises(ApiError, match="a cache answered"):
        read_names(reading.api(server), NameKind.SKILL, revision="7")


def test_where_a_service_is_may_come_from_a_cache(reading: Reading) -> None:
    faults = [Cached(DAYS_OLD, told, When(on=Endpoint.DOMAIN)) for told in (True, False)]
    sim = reading.simulator([], faults=faults)

    for _ in range(2):
        ask(reading.api(sim, api_url=None, domain_api_url=sim.url))


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_a_refusal_that_a_cache_kept_is_told_as_that(reading: Reading, status: int) -> None:
    server = reading.scripted(lambda _: Answer({"message": "no"}, status, {"Age": "90000"}))

    with pytest.raises(ApiError, match=r"a cache answered with a copy that it kept \(Age: 90000"):
        ask(reading.api(server, APP_KEYS))


@pytest.mark.parametrize(
    "headers",
    [
        {"Age": "90000"},
        {"Age": "3"},
        {"Age": "0, 90000"},
        {"Age": "99999999999999999999"},
        {"X_Cache": "HIT"},
        {"X_Cache": "Hit from cloudfront"},
        {"X_Cache": "MISS, HIT"},
        {"X_Cache": "HIT, MISS"},
        {"X_Cache": "TCP_MEM_HIT from a23-1.deploy.akamaitechnologies.com (AkamaiGHost/9.1)"},
        {"X_Cache": "HIT", "Age": "0"},
        {"CF_Cache_Status": "HIT"},
        {"CF_Cache_Status": "STALE"},
        {"X_Cache_Status": "hit"},
        {"X_Cache_Status": "UPDATING"},
        {"X_Proxy_Cache": "HIT"},
        {"Cache_Status": 'Origin; fwd=miss, "a CDN, inc; x"; hit; ttl=30'},
        {"Cache_Status": "Nginx;hit=?1"},
        {"Warning": '110 squid/6.1 "Response is stale"'},
        {"Warning": '199 - "other, things", 111 squid "Revalidation failed"'},
    ],
    ids=lambda headers: str(headers),
)
def test_a_reply_of_which_a_cache_says_that_it_kept_it_is_none(reading: Reading, headers: dict[str, str]) -> None:
    with pytest.raises(ApiError, match="a cache answered with a copy that it kept"):
        ask(with_headers(reading, **headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"Age": "0"},
        {"Age": "1"},
        {"Age": "-90000"},
        {"Age": "old"},
        {"Age": ""},
        {"Age": "1e9"},
        {"X_Cache": "Miss from cloudfront"},
        {"X_Cache": "RefreshHit from cloudfront"},
        {"X_Cache": "TCP_MISS from a23-1"},
        {"X_Cache": "TCP_REFRESH_HIT"},
        {"X_Cache": "MISS", "X_Cache_Lookup": "HIT from squid:3128", "X_Cache_Hits": "0, 3"},
        {"CF_Cache_Status": "DYNAMIC"},
        {"CF_Cache_Status": "REVALIDATED", "Age": "0"},
        {"X_Cache_Status": "EXPIRED"},
        {"X_Cache_Status": "BYPASS"},
        {"Cache_Status": 'Nginx; fwd=stale; fwd-status=304, "hit"; fwd=miss; hit=?0; detail="x; hit"'},
        {"Warning": '214 - "Transformation applied, 110 times"'},
        {"Via": "1.1 varnish", "Server": "HIT"},
        {"Cache_Control": "no-cache"},
    ],
    ids=lambda headers: str(headers),
)
def test_a_reply_that_was_made_for_its_request_passes_through_caches(reading: Reading, headers: dict[str, str]) -> None:
    assert ask(with_headers(reading, **headers)) == 1


def test_the_age_of_a_reply_counts_from_the_time_that_the_request_took(reading: Reading) -> None:
    def answer(asked: Asked) -> Answer:
        time.sleep(1.2)
        return replace(reply(asked, [], pagination={"count": 0}), headers={"Age": "2"})

    assert ask(reading.api(reading.scripted(answer), APP_KEYS)) == 1


def test_a_cache_is_named_in_its_own_words_and_by_nothing_secret(reading: Reading) -> None:
    def answer(asked: Asked) -> Answer:
        words = {"Age": "90000", "Via": "1.1 wsa-7", "X-Cache": "HIT from wsa-7", "Server": asked.authorization}
        return replace(reply(asked, [], pagination={"count": 0}), headers=words)

    with pytest.raises(ApiError) as failure:
        ask(reading.api(reading.scripted(answer)))

    told = str(failure.value)
    assert "Age: 90000; Via: 1.1 wsa-7; X-Cache: HIT from wsa-7" in told
    assert "a-token-of-the-script" not in told


@pytest.mark.parametrize(
    ("off", "told"),
    [
        (timedelta(hours=3), "this machine's clock is 3 h 0 min behind.*set the clock right"),
        (timedelta(hours=-3), "a cache answered with an old reply, or this machine's clock is 3 h 0 min ahead"),
        (timedelta(minutes=-3), "or this machine's clock is 3 min ahead"),
        (timedelta(days=400), "h 0 min behind"),
    ],
)
def test_a_reply_of_another_time_is_none_and_tells_by_how_much(reading: Reading, off: timedelta, told: str) -> None:
    sim = reading.simulator([], faults=[Misdated(off)])

    with pytest.raises(ApiError, match=rf"agent-segments.*\(Date\), this machine's clock said .*{told}"):
        ask(reading.api(sim))


@pytest.mark.parametrize(
    ("off", "on"), [(timedelta(hours=3), Endpoint.SEGMENTS), (timedelta(hours=-3), Endpoint.TOKEN)]
)
def test_a_clock_that_a_cache_hardly_explains_is_told_at_once(reading: Reading, off: timedelta, on: Endpoint) -> None:
    sim = reading.simulator([], faults=[Misdated(off, When(on=on))])

    with pytest.raises(ApiError, match=r"this machine's clock is 3 h 0 min (ahead|behind); set the clock right"):
        ask(reading.api(sim))

    assert [request.endpoint for request in sim.requests].count(on) == 1


@pytest.mark.parametrize("off_s", [-100, 100])
def test_clocks_may_differ_by_two_minutes(reading: Reading, off_s: int) -> None:
    assert ask(reading.api(reading.simulator([], faults=[Misdated(timedelta(seconds=off_s))]))) == 1


def test_a_second_date_does_not_hide_an_old_one(reading: Reading) -> None:
    yesterday = email.utils.formatdate(time.time() - 86400, usegmt=True)

    with pytest.raises(ApiError, match="24 h 0 min ahead"):
        ask(with_headers(reading, Date=yesterday))


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Foo 2026 00:00:00 GMT", "0", "Thu, 01 Jan 99999 00:00:00"])
def test_a_date_that_is_none_says_nothing(reading: Reading, date: str) -> None:
    assert ask(with_headers(reading, Date=date)) == 1


def test_the_clock_is_named_where_it_makes_a_signature_invalid(reading: Reading) -> None:
    refusal = {"reason": "oauth_problem=timestamp_refused"}
    old = email.utils.formatdate(time.time() - 86400, usegmt=True)
    server = reading.scripted(lambda _: Answer(refusal, 401, {"Date": old}))

    with pytest.raises(ApiError, match="this machine's clock is 24 h 0 min ahead"):
        ask(reading.api(server, APP_KEYS, pacing=FAST))
