"""The simulated AHT API keeps the documentation's promises, and breaks them only as it is told to."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
import requests
from requests_oauthlib import OAuth1

from aht_pipeline.simulator import (
    Cached,
    CallsFileError,
    CallTraffic,
    Capped,
    Cut,
    Deepest,
    Empty,
    Endpoint,
    ErrorStatus,
    ExplicitTraffic,
    FaultSpecError,
    GeneratedTraffic,
    HtmlError,
    Latency,
    Meanwhile,
    Misdated,
    PortTakenError,
    Redirect,
    Reset,
    RevokeTokens,
    Simulator,
    Style,
    Traffic,
    Trickle,
    When,
    WrongCount,
    parse_fault,
    read_calls,
    segment,
)
from aht_pipeline.simulator.authorisation import oauth1_signature

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 10, tzinfo=UTC)
DAY = timedelta(days=1)

CALLS = """\
date,call_id,line,service,priority,outcome,agent,start,end,handle_seconds
2011-12-05,30920,AA0109,PS,0,AGENT,YIFAT,09:27:41,09:46:41,1140
2012-01-01,30919,AA0202,NW,1,AGENT,IDIT,12:08:06,12:09:37,91
2012-01-01,30918,AA0202,PS,1,AGENT,IDIT,23:59:00,00:01:00,90
2019-11-21,30917,AA0115,PS,0,AGENT,TOVA,15:51:18,15:51:18,0
"""


class Client:
    """The least that asks the simulator for segments; a client of its own, so that the pipeline's is not trusted."""

    def __init__(self, sim: Simulator) -> None:
        self.sim = sim
        self.session = requests.Session()
        self.session.trust_env = False
        self.sign_in()

    def sign_in(self) -> None:
        token = self.token()["access_token"]
        self.session.headers["Authorization"] = f"Bearer {token}"

    def token(self) -> dict[str, Any]:
        answer = self.ask_for_token(self.sim.credentials.client_id, self.sim.credentials.client_secret)
        content: dict[str, Any] = answer.json()
        return content

    def ask_for_token(self, client_id: str, client_secret: str) -> requests.Response:
        form = {"client_id": client_id, "client_secret": client_secret, "grant_type": "client_credentials"}
        return requests.post(f"{self.sim.url}/sentinel/api/v2/account/demo/app/token", data=form, timeout=5)

    @property
    def segments_url(self) -> str:
        return f"{self.sim.url}/api/account/demo/agent-segments"

    def get(self, **parameters: Any) -> requests.Response:
        return self.session.get(
            self.segments_url, params={"source": "tests"} | parameters, timeout=5, allow_redirects=False
        )

    def window(self, start: datetime, end: datetime, **parameters: Any) -> dict[str, Any]:
        answer = self.get(fromMillis=millis(start), toMillis=millis(end), **parameters)
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def walk(self, start: datetime, end: datetime, **parameters: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        while page := self.window(start, end, offset=len(rows), limit=500, **parameters)["segments"]:
            rows += page
        return rows

    def causes(self, **parameters: Any) -> list[str]:
        answer = self.get(**parameters)
        assert answer.status_code == 400, answer.text
        causes: list[str] = answer.json()["causes"]
        return causes


def millis(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["segmentId"] for row in rows]


class Served:
    """Starts simulators, and stops them when the test ends."""

    def __init__(self) -> None:
        self.running: list[Simulator] = []

    def __call__(self, traffic: Traffic | None = None, **options: Any) -> Client:
        sim = Simulator(traffic or ten_segments(), **({"now": lambda: NOW} | options)).start()
        self.running.append(sim)
        return Client(sim)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    for sim in served.running:
        sim.stop()


def ten_segments() -> ExplicitTraffic:
    """Ten that close at noon and at the nine minutes after it."""
    return ExplicitTraffic(segment(number, NOON + timedelta(minutes=number)) for number in range(10))


# --- the Domain API


def test_the_domain_api_names_the_simulator_itself_without_a_scheme(served: Served) -> None:
    sim = served().sim
    one = requests.get(f"{sim.url}/api/account/demo/service/sentinel/baseURI.json?version=1.0", timeout=5).json()
    every = requests.get(f"{sim.url}/api/account/demo/service/baseURI.json?version=1.0", timeout=5).json()
    assert one == {"service": "sentinel", "account": "demo", "baseURI": sim.host}
    assert {entry["service"]: entry["baseURI"] for entry in every["baseURIs"]} == {
        "agentActivityDomain": sim.host,
        "accountConfigReadOnly": sim.host,
        "sentinel": sim.host,
    }


def test_the_domain_api_answers_in_the_other_shape_when_told(served: Served) -> None:
    sim = served(one_service="list", all_services="object", base_uri="va.example.test").sim
    one = requests.get(f"{sim.url}/api/account/demo/service/sentinel/baseURI.json", timeout=5).json()
    every = requests.get(f"{sim.url}/api/account/demo/service/baseURI.json", timeout=5).json()
    assert one == {"baseURIs": [{"service": "sentinel", "account": "demo", "baseURI": "va.example.test"}]}
    assert every == {"service": "agentActivityDomain", "account": "demo", "baseURI": "va.example.test"}


@pytest.mark.parametrize(
    "path",
    [
        "api/account/demo/service/agentactivitydomain/baseURI.json",
        "api/account/other/service/sentinel/baseURI.json",
        "api/account/other/agent-segments?source=tests",
        "api/account/demo/agent-segment",
    ],
)
def test_what_is_not_known_is_a_404(served: Served, path: str) -> None:
    client = served()
    assert client.session.get(f"{client.sim.url}/{path}", timeout=5).status_code == 404


# --- authorisation


def test_a_token_is_a_jwt_that_says_when_it_ends(served: Served) -> None:
    before = datetime.now(UTC).timestamp()
    answer = served(token_lifetime_s=900).token()
    claims = answer["access_token"].split(".")[1]
    expires = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
    assert answer["token_type"] == "Bearer"
    assert answer["expires_in"] == 900
    assert before + 899 <= expires <= datetime.now(UTC).timestamp() + 900


@pytest.mark.parametrize(("kind", "value"), [("string", "3600"), ("number", 3600), ("absent", None)])
def test_the_token_answer_says_its_lifetime_in_each_way(served: Served, kind: str, value: object) -> None:
    assert served(expires_in=kind).token().get("expires_in") == value


def test_a_token_is_refused_once_its_time_is_up(served: Served) -> None:
    answer = served(token_lifetime_s=0).get()
    assert answer.status_code == 401
    assert answer.json()["reason"] == "oauth_problem=token_expired"


def test_a_revoked_token_is_refused_and_a_new_one_is_not(served: Served) -> None:
    client = served()
    assert client.get().status_code == 200
    client.sim.revoke_tokens()
    assert client.get().status_code == 401
    client.sign_in()
    assert client.get().status_code == 200


def test_wrong_client_credentials_get_no_token(served: Served) -> None:
    client = served()
    assert client.ask_for_token("demo-client", "guess").status_code == 401
    assert client.ask_for_token("guess", "demo-secret").status_code == 401


def test_a_request_without_authorisation_is_refused_as_documented(served: Served) -> None:
    answer = requests.get(f"{served().segments_url}?source=tests", timeout=5)
    assert answer.status_code == 401
    assert answer.json()["reason"] == "oauth_problem=parameter_absent"
    assert answer.json()["message"]


def oauth1(**changes: Any) -> OAuth1:
    keys: dict[str, Any] = {
        "client_key": "demo-app-key",
        "client_secret": "demo-app-secret",
        "resource_owner_key": "demo-token",
        "resource_owner_secret": "demo-token-secret",
    }
    return OAuth1(**(keys | changes))


def test_a_request_signed_by_oauth_1_is_served(served: Served) -> None:
    query = {
        "source": "tests",
        "from": "2026-03-10T14:00:00+02:00",
        "to": "2026-03-10T12:03:00Z",
        "AgentId": "3000000102",
    }
    answer = requests.get(served().segments_url, params=query, auth=oauth1(), timeout=5)
    assert answer.status_code == 200
    assert answer.json()["pagination"]["count"] == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"client_secret": "guess"}, "signature_invalid"),
        ({"resource_owner_secret": "guess"}, "signature_invalid"),
        ({"client_key": "guess"}, "consumer_key_unknown"),
        ({"resource_owner_key": "guess"}, "token_rejected"),
        ({"timestamp": "1767322800"}, "timestamp_refused"),
        ({"signature_method": "PLAINTEXT"}, "signature_method_rejected"),
    ],
)
def test_a_wrong_oauth_1_signature_is_refused(served: Served, changes: dict[str, Any], problem: str) -> None:
    answer = requests.get(f"{served().segments_url}?source=tests", auth=oauth1(**changes), timeout=5)
    assert answer.status_code == 401
    assert answer.json()["reason"] == f"oauth_problem={problem}"


def test_an_oauth_1_nonce_works_once(served: Served) -> None:
    client = served()
    signed = requests.Request("GET", client.segments_url, params={"source": "tests"}, auth=oauth1()).prepare()
    assert requests.Session().send(signed, timeout=5).status_code == 200
    again = requests.Session().send(signed, timeout=5)
    assert again.status_code == 401
    assert again.json()["reason"] == "oauth_problem=nonce_used"


def test_a_signature_of_another_query_is_refused(served: Served) -> None:
    client = served()
    signed = requests.Request("GET", client.segments_url, params={"source": "tests"}, auth=oauth1()).prepare()
    signed.url = f"{client.segments_url}?source=others"
    assert requests.Session().send(signed, timeout=5).json()["reason"] == "oauth_problem=signature_invalid"


@pytest.mark.parametrize(
    ("query", "signature"),
    [
        ("fromMillis=1767225600000&toMillis=1767312000000&limit=500&offset=0", "1Zi3mNJGF0NT2PdTXGDfh3qdQ2w="),
        (
            "from=2026-01-01T00%3A00%3A00%2B02%3A00&to=2026-01-02T00%3A00%3A00%2B02%3A00&limit=2&offset=2",
            "PzXBV5DVhLQ6rkuR49HjbH02Tfk=",
        ),
    ],
)
def test_the_signatures_of_the_known_vectors_come_out(query: str, signature: str) -> None:
    header = [
        ("oauth_consumer_key", "ck-example"),
        ("oauth_token", "tk-example"),
        ("oauth_nonce", "nonce-1"),
        ("oauth_timestamp", "1767322800"),
        ("oauth_signature_method", "HMAC-SHA1"),
        ("oauth_version", "1.0"),
    ]
    url = "https://va.agent-activity.example.test/api/account/12345678/agent-segments"
    assert (
        oauth1_signature("GET", url, [*parse_qsl(f"source=etl_test&{query}"), *header], "cs-example", "ts-example")
        == signature
    )


# --- parameters and their limits


@pytest.mark.parametrize(
    ("parameters", "cause"),
    [
        ({"source": None}, "source: is required"),
        ({"source": "a" * 21}, "source: must be at most 20 characters long"),
        ({"source": "with-hyphen"}, 'source: must match "^[a-zA-Z0-9_]+$"'),
        ({"limit": 501}, "limit: must be less than or equal to 500"),
        ({"limit": 0}, "limit: must be greater than or equal to 1"),
        ({"limit": "all"}, "limit: must be a whole number"),
        ({"offset": -1}, "offset: must be greater than or equal to 0"),
        ({"sort": "date"}, "sort: must be one of Date, Conversation, Agent, Employee, Skill, Group"),
        ({"from": "2026-03-10T00:00:00"}, "from: must be a date and time with an offset, by RFC 3339"),
        ({"from": "2026-03-10"}, "from: must be a date and time with an offset, by RFC 3339"),
        ({"to": "2026-02-30T00:00:00Z"}, "to: must be a date and time with an offset, by RFC 3339"),
        ({"fromMillis": "yesterday"}, "fromMillis: must be epoch milliseconds"),
        ({"fromMillis": 10**17}, "fromMillis: must be epoch milliseconds"),
        ({"from": "2026-03-10T00:00:00Z", "fromMillis": 1}, "from: must not be given together with fromMillis"),
        ({"to": "2026-03-10T00:00:00Z", "toMillis": 1}, "to: must not be given together with toMillis"),
        ({"fromMillis": millis(NOON), "toMillis": millis(NOON) - 1}, "toMillis: must not be before fromMillis"),
        (
            {"fromMillis": millis(NOON), "toMillis": millis(NOON + 7 * DAY) + 1},
            "toMillis: must be at most 1 week after fromMillis",
        ),
    ],
)
def test_a_broken_rule_is_a_400_that_names_it(served: Served, parameters: dict[str, Any], cause: str) -> None:
    assert served().causes(**parameters) == [cause]


def test_a_400_lists_every_cause(served: Served) -> None:
    causes = served().causes(source="no-hyphens-please-here", limit=501, offset=-1)
    assert [cause.split(":")[0] for cause in causes] == ["source", "source", "limit", "offset"]


def test_a_lower_limit_is_named_by_the_400(served: Served) -> None:
    client = served(max_limit=100)
    assert client.causes(limit=500) == ["limit: must be less than or equal to 100"]
    assert client.get(limit=100).status_code == 200


@pytest.mark.parametrize(
    ("now", "oldest"),
    [
        (datetime(2026, 3, 15, 12, tzinfo=UTC), datetime(2026, 2, 15, 12, tzinfo=UTC)),
        (datetime(2026, 3, 30, 12, tzinfo=UTC), datetime(2026, 2, 28, 12, tzinfo=UTC)),
        (datetime(2027, 1, 31, 12, tzinfo=UTC), datetime(2026, 12, 31, 12, tzinfo=UTC)),
    ],
)
def test_the_memory_is_one_calendar_month(served: Served, now: datetime, oldest: datetime) -> None:
    client = served(now=lambda: now)
    assert client.get(fromMillis=millis(oldest)).status_code == 200
    (cause,) = client.causes(fromMillis=millis(oldest) - 1)
    assert cause.startswith("fromMillis: must be at most 1 month ago")


def test_a_raw_plus_in_a_time_is_a_space_and_refused(served: Served) -> None:
    client = served()
    raw = client.session.get(f"{client.segments_url}?source=tests&from=2026-03-10T14:00:00+02:00", timeout=5)
    assert raw.status_code == 400
    assert (
        client.get(**{"from": "2026-03-10T14:00:00+02:00"}).json()["timeframe"]["startTime"] == "2026-03-10T12:00:00Z"
    )


def test_the_default_is_the_last_day_a_hundred_rows_newest_first(served: Served) -> None:
    closes = [NOW - timedelta(minutes=10 * number) for number in range(1, 200)]
    page = served(ExplicitTraffic(segment(number, close) for number, close in enumerate(closes))).get().json()
    assert page["timeframe"]["startTimeL"] == millis(NOW - DAY)
    assert page["pagination"]["count"] == 24 * 6
    assert [row["endTimeL"] for row in page["segments"]] == [millis(close) for close in closes[:100]]


def test_both_edges_of_the_window_are_in(served: Served) -> None:
    rows = served().window(NOON + timedelta(minutes=2), NOON + timedelta(minutes=4))["segments"]
    assert [row["endTimeL"] for row in rows] == [millis(NOON + timedelta(minutes=m)) for m in (4, 3, 2)]


def test_a_half_open_server_leaves_the_later_edge_out(served: Served) -> None:
    client = served(style=Style(half_open=True))
    rows = client.window(NOON + timedelta(minutes=2), NOON + timedelta(minutes=4))["segments"]
    assert [row["endTimeL"] for row in rows] == [millis(NOON + timedelta(minutes=m)) for m in (3, 2)]


def test_a_window_over_several_days_is_one_list_newest_first(served: Served) -> None:
    traffic = GeneratedTraffic(segments_per_day=400)
    rows = served(traffic).walk(MIDNIGHT, MIDNIGHT + 3 * DAY)
    closes = [row["endTimeL"] for row in rows]
    assert closes == sorted(closes, reverse=True)
    assert len(set(ids(rows))) == sum(traffic.count((MIDNIGHT + n * DAY).date()) for n in range(3))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("ConversationId", "conversationId"),
        ("AgentId", "agentId"),
        ("EmployeeId", "employeeId"),
        ("SkillId", "skillId"),
        ("GroupId", "groupId"),
    ],
)
def test_a_filter_matches_exactly_and_in_this_case_only(served: Served, name: str, field: str) -> None:
    client = served(GeneratedTraffic(segments_per_day=300))
    every = client.walk(MIDNIGHT, MIDNIGHT + DAY)
    wanted = next(row[field] for row in every if row.get(field))
    found = client.walk(MIDNIGHT, MIDNIGHT + DAY, **{name: wanted})
    assert ids(found) == [row["segmentId"] for row in every if row.get(field) == wanted]
    assert 0 < len(found) < len(every)
    assert client.walk(MIDNIGHT, MIDNIGHT + DAY, **{name: f"{wanted}0"}) == []
    assert len(client.walk(MIDNIGHT, MIDNIGHT + DAY, **{field: wanted})) == len(every)


def test_an_id_beyond_a_float_is_found_exactly(served: Served) -> None:
    client = served(ExplicitTraffic(segment(number, NOON, agentId=2**62 + number) for number in range(3)))
    rows = client.walk(MIDNIGHT, MIDNIGHT + DAY, AgentId=2**62 + 1)
    assert [row["agentId"] for row in rows] == [2**62 + 1]
    assert client.walk(MIDNIGHT, MIDNIGHT + DAY, AgentId=2**64) == []


@pytest.mark.parametrize(
    ("sort", "field"), [("Conversation", "conversationId"), ("Agent", "agentId"), ("Skill", "skillId")]
)
def test_a_sort_orders_all_pages(served: Served, sort: str, field: str) -> None:
    rows = served(GeneratedTraffic(segments_per_day=1200)).walk(MIDNIGHT, MIDNIGHT + DAY, sort=sort)
    assert [row[field] for row in rows] == sorted(row[field] for row in rows)
    assert len(set(ids(rows))) == len(rows) > 1000


def test_shuffled_ties_change_places_between_requests_and_nothing_else_does(served: Served) -> None:
    closes = [NOON] * 50 + [NOON + timedelta(seconds=1)]
    traffic = ExplicitTraffic(segment(number, close) for number, close in enumerate(closes))
    client = served(traffic, style=Style(shuffle_ties=True))
    orders = [ids(client.window(MIDNIGHT, MIDNIGHT + DAY)["segments"]) for _ in range(2)]
    assert orders[0] != orders[1]
    assert orders[0][0] == orders[1][0]
    assert sorted(orders[0]) == sorted(orders[1])


# --- replies


def test_the_links_have_the_documented_oddities(served: Served) -> None:
    client = served()
    query = {"from": "2026-03-10T14:00:00+02:00", "to": "2026-03-11T00:00:00Z", "limit": 4, "sort": "Agent"}
    page = client.get(**query).json()
    links = {link["rel"]: link["href"] for link in page["pagination"]["references"]}
    assert page["pagination"]["count"] == 10
    assert links["next"] == (
        f"{client.segments_url}?source=tests&from=2026-03-10T14:00:00+02:00&to=2026-03-11T00:00:00Z"
        "&offset=4&limit=4&sortType=AGENT"
    )
    assert links["last"].endswith("&offset=8&limit=2&sortType=AGENT")
    assert set(links) == {"self", "next", "last", "first"}


def test_the_timeframe_is_the_window_in_whole_seconds_and_in_milliseconds(served: Served) -> None:
    start, end = MIDNIGHT, MIDNIGHT + timedelta(hours=23, milliseconds=250)
    assert served().window(start, end)["timeframe"] == {
        "startTime": "2026-03-10T00:00:00Z",
        "endTime": "2026-03-10T23:00:00Z",
        "startTimeL": millis(start),
        "endTimeL": millis(end),
    }


def test_the_older_form_has_no_pagination(served: Served) -> None:
    page = served(style=Style(pagination=False)).window(MIDNIGHT, MIDNIGHT + DAY)
    assert "pagination" not in page
    assert len(page["segments"]) == 10


def test_epochs_in_seconds_are_seconds_everywhere(served: Served) -> None:
    page = served(style=Style(epoch_in_seconds=True)).window(MIDNIGHT, MIDNIGHT + DAY)
    assert page["timeframe"]["startTimeL"] == millis(MIDNIGHT) // 1000
    assert page["segments"][9]["endTimeL"] == millis(NOON) // 1000
    assert page["segments"][9]["totalHandleTimeMillis"] == 360_000


def test_a_server_may_serve_fewer_rows_than_asked(served: Served) -> None:
    page = served(style=Style(max_rows=3)).window(MIDNIGHT, MIDNIGHT + DAY, limit=500)
    assert (len(page["segments"]), page["pagination"]["count"]) == (3, 10)


def test_a_server_that_ignores_the_window_shows_it_in_the_timeframe(served: Served) -> None:
    page = served(style=Style(ignores_window=True)).window(MIDNIGHT, MIDNIGHT + DAY)
    assert page["timeframe"]["startTimeL"] == millis(NOW - DAY)


# --- generated traffic


def test_a_day_is_the_same_in_every_process(tmp_path: Path) -> None:
    here = bytes(GeneratedTraffic("acme", 500, seed=7).day(NOON.date()).json)
    code = (
        "import sys; from datetime import date; from aht_pipeline.simulator import GeneratedTraffic as G\n"
        "t = G('acme', 500, seed=7); t.day(date(2026, 3, 11)); sys.stdout.buffer.write(t.day(date(2026, 3, 10)).json)"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert here == there
    assert here != bytes(GeneratedTraffic("acme", 500, seed=8).day(NOON.date()).json)


def test_generated_traffic_is_believable(served: Served) -> None:
    client = served(GeneratedTraffic(segments_per_day=5000))
    rows = client.walk(MIDNIGHT, MIDNIGHT + DAY)
    for row in rows:
        assert re.fullmatch(r"demo:\d+:[0-9a-f-]{36}:[A-Za-z0-9_-]{22}", row["segmentId"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,2}[1-9])?Z", row["endTime"])
        assert millis(datetime.fromisoformat(row["startTime"])) == row["startTimeL"] <= row["endTimeL"]
        assert millis(datetime.fromisoformat(row["endTime"])) == row["endTimeL"]
        assert row["agentId"] > 2**31
    overrun = sum(row["totalHandleTimeMillis"] > row["endTimeL"] - row["startTimeL"] for row in rows)
    assert 0 < overrun < len(rows) / 100
    assert any(row["totalHandleTimeMillis"] == 0 for row in rows)
    assert any(row["startTimeL"] < millis(MIDNIGHT) for row in rows)
    assert {row.get("employeeId", "absent") for row in rows} >= {"", None, "absent"}
    assert any(str(row.get("employeeId")).startswith("0") for row in rows)
    assert any(row["skillId"] == -1 for row in rows)
    assert any(row["groupId"] == -1 for row in rows)
    assert {len(row["endTime"]) for row in rows} == {20, 22, 23, 24}


def test_a_conversation_passes_from_agent_to_agent_without_a_gap() -> None:
    content = b"[" + GeneratedTraffic(segments_per_day=3000).day(NOON.date()).json.removesuffix(b",") + b"]"
    rows = msgspec.json.decode(content)
    conversations: dict[str, list[dict[str, Any]]] = {}
    for row in reversed(rows):
        conversations.setdefault(row["conversationId"], []).append(row)
    passed_on = {"agentTransfer", "skillTransfer", "backToQueue"}
    assert Counter(len(parts) for parts in conversations.values()).keys() == {1, 2, 3, 4, 5}
    for parts in conversations.values():
        assert parts[-1]["endReason"] not in passed_on
        for one, following in pairwise(parts):
            assert one["endReason"] in passed_on
            assert one["endTime"] == following["startTime"]
            assert one["agentId"] != following["agentId"]
            assert (one["skillId"] != following["skillId"]) == (
                one["endReason"] == "skillTransfer" and one["skillId"] != -1
            )


@pytest.mark.parametrize("segments_per_day", [0, 1, 2, 30])
def test_small_traffic_is_served_too(served: Served, segments_per_day: int) -> None:
    traffic = GeneratedTraffic(segments_per_day=segments_per_day)
    assert len(served(traffic).walk(MIDNIGHT, MIDNIGHT + DAY)) == traffic.count(NOON.date())


def test_weekends_are_quieter_and_nothing_closes_before_the_first_day() -> None:
    traffic = GeneratedTraffic(segments_per_day=1000, first_day=date(2026, 3, 10))
    assert traffic.count(date(2026, 3, 14)) < traffic.count(date(2026, 3, 13)) / 2
    assert traffic.count(date(2026, 3, 9)) == 0
    assert len(traffic.day(date(2026, 3, 9))) == 0


def test_what_has_not_closed_yet_is_not_served(served: Served) -> None:
    rows = served(GeneratedTraffic(segments_per_day=2000)).walk(NOW - timedelta(hours=12), NOW + timedelta(hours=12))
    assert 0 < len(rows) < GeneratedTraffic(segments_per_day=2000).count(NOW.date())
    assert max(row["endTimeL"] for row in rows) <= millis(NOW)


def test_the_far_future_is_empty(served: Served) -> None:
    page = served().get(fromMillis=253402300799999).json()
    assert (page["segments"], page["pagination"]["count"]) == ([], 0)


def test_late_segments_appear_one_by_one_until_the_lag_is_over(served: Served) -> None:
    clock = [MIDNIGHT + DAY]
    traffic = GeneratedTraffic(segments_per_day=500)
    client = served(traffic, lag=timedelta(hours=6), now=lambda: clock[0])
    window = MIDNIGHT, MIDNIGHT + DAY - timedelta(milliseconds=1)
    seen = []
    for hours in (0, 3, 6):
        clock[0] = MIDNIGHT + DAY + timedelta(hours=hours)
        seen.append(set(ids(client.walk(*window))))
    assert seen[0] < seen[1] <= seen[2]
    assert len(seen[2]) == traffic.count(NOON.date())


# --- explicit traffic


def test_rows_come_change_and_go(served: Served) -> None:
    traffic = ExplicitTraffic()
    client = served(traffic)
    name = traffic.add(segment(1, NOON))
    assert ids(client.walk(MIDNIGHT, MIDNIGHT + DAY)) == [name]
    traffic.restate(name, totalHandleTimeMillis=1)
    assert client.walk(MIDNIGHT, MIDNIGHT + DAY)[0]["totalHandleTimeMillis"] == 1
    traffic.restate(name, endTime="2026-03-11T12:00:00Z")
    assert client.walk(MIDNIGHT, MIDNIGHT + DAY) == []
    assert ids(client.walk(MIDNIGHT + DAY, MIDNIGHT + 2 * DAY)) == [name]
    traffic.remove(name)
    assert client.walk(MIDNIGHT + DAY, MIDNIGHT + 2 * DAY) == []


def test_a_poisoned_row_is_served_byte_by_byte(served: Served) -> None:
    poison = b'{ "segmentId": "\\ud800", "agentId": 1e400 }'
    traffic = ten_segments()
    traffic.add(poison, close=NOON + timedelta(hours=1))
    body = served(traffic).get(fromMillis=millis(MIDNIGHT), toMillis=millis(MIDNIGHT + DAY)).content
    assert b'"segments":[' + poison + b',{"segmentId"' in body


def test_two_rows_with_one_id_need_two_names(served: Served) -> None:
    traffic = ExplicitTraffic([segment(1, NOON)])
    with pytest.raises(ValueError, match="a name of its own"):
        traffic.add(segment(1, NOON))
    traffic.add(segment(1, NOON), name="the same again")
    assert len(served(traffic).walk(MIDNIGHT, MIDNIGHT + DAY)) == 2


# --- call records


@pytest.fixture
def calls_file(tmp_path: Path) -> Path:
    path = tmp_path / "calls.csv"
    path.write_text(CALLS)
    return path


def test_every_call_is_served_as_the_segment_that_was_foretold(served: Served, calls_file: Path) -> None:
    foretold = read_calls(calls_file, "demo", NOW.date())
    client = served(CallTraffic(foretold))
    rows = [row for week in range(4) for row in client.walk(NOW - (week + 1) * 7 * DAY, NOW - week * 7 * DAY)]
    by_id = {row["segmentId"]: row for row in rows}
    assert len(by_id) == len(rows) == 4
    for call in foretold:
        row = by_id[call.segment_id]
        assert datetime.fromisoformat(row["startTime"]) == call.start_time
        assert datetime.fromisoformat(row["endTime"]) == call.end_time
        assert row["totalHandleTimeMillis"] == call.total_handle_time_ms
        assert (row["agentId"], row["employeeId"]) == (call.agent_id, call.employee_id)
        assert (row["skillId"], row["groupId"]) == (call.skill_id, -1)


def test_calls_keep_order_hours_and_seconds_and_names_become_numbers(calls_file: Path) -> None:
    first, second, over_midnight, last = read_calls(calls_file, "demo", NOW.date())
    assert [call.end_time.date().isoformat() for call in (first, second, over_midnight, last)] == [
        "2026-03-12",
        "2026-03-13",
        "2026-03-13",
        "2026-03-14",
    ]
    assert first.start_time == datetime(2026, 3, 12, 9, 27, 41, tzinfo=UTC)
    assert first.total_handle_time_ms == 1_140_000
    assert over_midnight.start_time == datetime(2026, 3, 12, 23, 59, tzinfo=UTC)
    assert second.agent_id == over_midnight.agent_id != first.agent_id
    assert first.skill_id == last.skill_id != second.skill_id
    assert 2**62 <= first.agent_id < 2**63


def test_more_dates_than_days_are_all_within_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    dates = [date(2012, 1, 1) + timedelta(days=3 * number) for number in range(1000)]
    lines = [f"{day},{number},A,PS,0,AGENT,IDIT,09:00:00,09:01:00,60" for number, day in enumerate(dates)]
    path.write_text("\n".join([CALLS.splitlines()[0], *lines]))
    days = [call.end_time.date() for call in read_calls(path, "demo", NOW.date())]
    assert days == sorted(days)
    assert (days[0], days[-1]) == (NOW.date() - 27 * DAY, NOW.date() - DAY)
    assert len(set(days)) == 27


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("date,call_id\n", "has no column service, agent, start, end, handle_seconds"),
        (CALLS + "2019-11-22,1,A,PS,0,AGENT,TOVA,9 o'clock,15:51:18,0\n", "line 6"),
        (CALLS + "2019-11-22,30917,A,PS,0,AGENT,TOVA,15:51:18,15:51:18,0\n", "call id 30917 is there twice"),
    ],
)
def test_a_file_that_is_no_call_records_is_refused_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "calls.csv"
    path.write_text(text)
    with pytest.raises(CallsFileError, match=re.escape(told)):
        read_calls(path, "demo", NOW.date())


# --- faults


def statuses(client: Client, requests_made: int, **parameters: Any) -> list[int]:
    return [client.get(**parameters).status_code for _ in range(requests_made)]


def test_a_fault_strikes_the_requests_it_is_told_to(served: Served) -> None:
    client = served()
    for when, expected in [
        (When(first=2), [500, 500, 200, 200, 200, 200]),
        (When(every=3), [200, 200, 500, 200, 200, 500]),
        (When(every=3, burst=2), [200, 200, 500, 500, 200, 500]),
        (When(first=1, after=3), [200, 200, 200, 500, 200, 200]),
        (When(), [500] * 6),
    ]:
        client.sim.set_faults(ErrorStatus(500, when=when))
        assert statuses(client, 6) == expected, when


def test_chance_is_the_same_each_time(served: Served) -> None:
    client = served()
    runs = []
    for seed in (1, 1, 2):
        client.sim.set_faults(ErrorStatus(500, when=When(chance=0.5, seed=seed)))
        runs.append(statuses(client, 20))
    assert runs[0] == runs[1] != runs[2]
    assert set(runs[0]) == {200, 500}


def test_one_day_can_fail_while_its_neighbours_do_not(served: Served) -> None:
    client = served(faults=[parse_fault("day=2026-03-10:status=503")])
    for start, status in [(MIDNIGHT - DAY, 200), (MIDNIGHT, 503), (MIDNIGHT + DAY, 200)]:
        assert client.get(fromMillis=millis(start), toMillis=millis(start + DAY)).status_code == status
    half = MIDNIGHT + DAY / 2
    assert client.get(fromMillis=millis(half), toMillis=millis(MIDNIGHT + DAY)).status_code == 503


def test_faults_compose_each_with_its_own_count(served: Served) -> None:
    faults = [ErrorStatus(500, when=When(first=1)), ErrorStatus(429, when=When(first=2)), Latency(timedelta())]
    assert statuses(served(faults=faults), 3) == [500, 429, 200]


def test_errors_have_the_documented_bodies(served: Served) -> None:
    client = served(faults=[ErrorStatus(503, when=When(first=1)), ErrorStatus(429, retry_after_s=1.5)])
    failed, slow_down = client.get(), client.get()
    assert set(failed.json()) == {"internalCode", "message"}
    assert (slow_down.content, slow_down.headers["Retry-After"]) == (b"", "1.5")


def test_a_429_has_a_retry_after_only_when_told(served: Served) -> None:
    assert "Retry-After" not in served(faults=[ErrorStatus(429)]).get().headers


def test_a_reset_is_a_reset_and_the_next_request_is_served(served: Served) -> None:
    client = served(faults=[Reset(When(first=1))])
    with pytest.raises(requests.ConnectionError):
        client.get()
    assert client.get().status_code == 200
    assert [record.status for record in client.sim.segment_requests] == [None, 200]


def test_a_cut_body_is_shorter_than_it_said_or_no_json(served: Served) -> None:
    client = served(faults=[Cut(when=When(first=1)), Cut(as_json=True, when=When(first=1, after=1))])
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        client.get()
    truncated = client.get()
    assert int(truncated.headers["Content-Length"]) == len(truncated.content)
    with pytest.raises(requests.exceptions.JSONDecodeError):
        truncated.json()
    assert client.get().json()


def test_an_html_error_is_html(served: Served) -> None:
    answer = served(faults=[HtmlError(503)]).get()
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, "text/html")
    assert answer.text.startswith("<html>")


def test_a_redirect_leads_away(served: Served) -> None:
    answer = served(faults=[Redirect("https://elsewhere.example.test/x")]).get()
    assert (answer.status_code, answer.headers["Location"]) == (302, "https://elsewhere.example.test/x")


def test_tokens_can_be_revoked_in_mid_walk(served: Served) -> None:
    client = served(faults=[RevokeTokens(When(first=1, after=1))])
    assert statuses(client, 3) == [200, 401, 401]
    client.sign_in()
    assert statuses(client, 2) == [200, 200]


def test_an_empty_answer_keeps_the_count_or_denies_it(served: Served) -> None:
    client = served(faults=[Empty(when=When(first=1)), Empty(count=0, when=When(first=1, after=1))])
    pages = [client.window(MIDNIGHT, MIDNIGHT + DAY) for _ in range(3)]
    assert [(len(page["segments"]), page["pagination"]["count"]) for page in pages] == [(0, 10), (0, 0), (10, 10)]


def test_a_count_can_lie(served: Served) -> None:
    page = served(faults=[WrongCount(-3)]).window(MIDNIGHT, MIDNIGHT + DAY)
    assert (len(page["segments"]), page["pagination"]["count"]) == (10, 7)


def test_a_count_can_stop_with_the_rows(served: Served) -> None:
    client = served(faults=[Capped(7)])
    pages = [client.window(MIDNIGHT, MIDNIGHT + DAY, offset=offset, limit=5) for offset in (0, 5, 10)]
    assert [(len(page["segments"]), page["pagination"]["count"]) for page in pages] == [(5, 7), (2, 7), (0, 7)]


def test_pages_can_be_refused_from_some_row_on(served: Served) -> None:
    client = served(faults=[Deepest(7)])
    replies = [client.get(fromMillis=millis(MIDNIGHT), offset=offset, limit=5) for offset in (0, 2, 3)]
    assert [reply.status_code for reply in replies] == [200, 200, 400]
    assert replies[-1].json()["causes"] == ["offset: offset + limit must be at most 7"]


def test_a_fault_leaves_the_bytes_of_the_rows_as_they_are(served: Served) -> None:
    raw = b'{"segments":["]"],"count":NaN,"half":"\\ud83d"}'
    traffic = ExplicitTraffic()
    traffic.add(raw, close=NOON)
    client = served(traffic, faults=[WrongCount(-3), Empty(when=When(after=1))])
    told, without = (client.get(fromMillis=millis(MIDNIGHT), toMillis=millis(MIDNIGHT + DAY)).content for _ in range(2))
    assert b'"segments":[' + raw + b'],"pagination":{"count":-2,' in told
    assert b'"segments":[],"pagination":{"count":' in without


def test_rows_can_arrive_between_two_pages(served: Served) -> None:
    traffic = ten_segments()
    newcomer = segment(10, NOON + timedelta(hours=1))
    client = served(traffic, faults=[Meanwhile(lambda: traffic.add(newcomer), When(first=1, after=1))])
    pages = [client.window(MIDNIGHT, MIDNIGHT + DAY, offset=offset, limit=5) for offset in (0, 5)]
    assert [page["pagination"]["count"] for page in pages] == [10, 11]
    assert ids(pages[0]["segments"])[-1] == ids(pages[1]["segments"])[0]


def test_too_many_at_once_are_turned_away(served: Served) -> None:
    client = served()
    together = Barrier(4)
    client.sim.set_faults(Meanwhile(together.wait, When(first=4)), ErrorStatus(429, when=When(above=3)))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: Client(client.sim).get().status_code, range(4)))
    assert sorted(answers) == [200, 200, 200, 429]


def test_faults_strike_the_token_endpoint_only_when_told(served: Served) -> None:
    client = served()
    client.sim.set_faults(parse_fault("500:on=token"))
    assert client.get().status_code == 200
    assert client.ask_for_token("demo-client", "demo-secret").status_code == 500


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("latency=30ms", Latency(timedelta(milliseconds=30))),
        ("429:every=7", ErrorStatus(429, when=When(every=7))),
        ("429:first=3,retry_after=1", ErrorStatus(429, retry_after_s=1, when=When(first=3))),
        ("500:first=2", ErrorStatus(500, when=When(first=2))),
        ("503:every=50,burst=3", ErrorStatus(503, when=When(every=50, burst=3))),
        ("reset:every=20", Reset(When(every=20))),
        ("cut:every=15", Cut(when=When(every=15))),
        ("cut:how=json,chance=0.1,seed=3", Cut(as_json=True, when=When(chance=0.1, seed=3))),
        ("html:first=1", HtmlError(502, When(first=1))),
        ("redirect=http://127.0.0.1:81/x?a=b:after=2", Redirect("http://127.0.0.1:81/x?a=b", When(after=2))),
        ("redirect=https://elsewhere.example.test", Redirect("https://elsewhere.example.test")),
        ("day=2026-11-20:status=503", ErrorStatus(503, when=When(day=date(2026, 11, 20)))),
        ("cached=25h", Cached(timedelta(hours=25))),
        ("cached=25h:how=date,on=token", Cached(timedelta(hours=25), told=False, when=When(on=Endpoint.TOKEN))),
        ("clock=+3h", Misdated(timedelta(hours=3))),
        ("clock=-90s", Misdated(timedelta(seconds=-90))),
        ("trickle=5s", Trickle(timedelta(seconds=5))),
        ("trickle=20ms:how=head", Trickle(timedelta(milliseconds=20), from_head=True)),
        ("count=-2", WrongCount(-2)),
        ("capped=10000", Capped(10_000)),
        ("deepest=10000:after=3", Deepest(10_000, When(after=3))),
        ("empty:count=0", Empty(count=0)),
        ("revoke:after=4,first=1", RevokeTokens(When(first=1, after=4))),
    ],
)
def test_a_fault_spec_says_what_it_means(spec: str, fault: object) -> None:
    assert parse_fault(spec) == fault


@pytest.mark.parametrize(
    "spec",
    [
        *(
            "",
            "slow",
            "latency",
            "latency=soon",
            "200",
            "429=3",
            "429:every",
            "429:every=0",
            "429:often=1",
            "500:burst=2",
        ),
        *(
            "500:burst=2",
            "day=tomorrow",
            "cut:how=badly",
            "html:status=200",
            "500:on=moon",
            "500:chance=2",
            "count=many",
            "cached",
            "cached=25h:how=badly",
            "capped=0",
            "deepest",
            "clock=3",
            "clock=++3h",
            "trickle=fast",
        ),
    ],
)
def test_a_fault_spec_that_says_nothing_is_refused_with_the_grammar(spec: str) -> None:
    with pytest.raises(FaultSpecError, match=r"(?s)is not understood.*429:every=7"):
        parse_fault(spec)


# --- what a test can see


def test_requests_are_on_record_without_secrets(served: Served) -> None:
    client = served()
    client.get(limit=501)
    client.get(limit=5)
    token, refused, fine = client.sim.requests
    assert (token.method, token.path, token.query) == ("POST", "/sentinel/api/v2/account/demo/app/token", "")
    assert (refused.status, fine.status) == (400, 200)
    assert fine.parameters == {"source": "tests", "limit": "5"}
    assert "demo-secret" not in repr(client.sim.requests)
    assert "Bearer" not in repr(client.sim.requests)
    client.sim.forget_requests()
    assert client.sim.requests == []


def test_the_most_requests_at_once_are_counted(served: Served) -> None:
    client = served()
    together = Barrier(3)
    client.sim.set_faults(Meanwhile(together.wait, When(first=3)))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: Client(client.sim).get(), range(3)))
    assert (client.sim.max_in_flight, client.sim.in_flight) == (3, 0)
    client.sim.forget_requests()
    client.get()
    assert client.sim.max_in_flight == 1


def test_a_stopped_simulator_answers_nobody_until_it_is_started_again(served: Served) -> None:
    client = served()
    client.sim.stop()
    with pytest.raises(requests.ConnectionError):
        client.get()
    client.sim.start()
    assert client.get().status_code == 200


def test_a_taken_port_is_told(served: Served) -> None:
    port = int(served().sim.url.rpartition(":")[2])
    with pytest.raises(PortTakenError, match=f"cannot listen on 127.0.0.1:{port}"):
        Simulator(ten_segments(), port=port).start()


# --- the command

COMMAND = [sys.executable, "-c", "from aht_pipeline.cli import main; main()", "simulator"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_prints_how_to_use_it_and_ends_in_peace(calls_file: Path, stop: signal.Signals) -> None:
    arguments = ["--calls", str(calls_file), "--account", "bank", "--fault", "500:on=domain", "--lag", "1h"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        variables = dict(re.findall(r"(LIVEPERSON_\w+)=(\S+)", process.stdout.readline()))
        url = variables["LIVEPERSON_API_URL"]
        answer = requests.post(
            f"{url}/sentinel/api/v2/account/bank/app/token",
            data={
                "client_id": variables["LIVEPERSON_CLIENT_ID"],
                "client_secret": variables["LIVEPERSON_CLIENT_SECRET"],
                "grant_type": "client_credentials",
            },
            timeout=5,
        )
        domain = requests.get(f"{url}/api/account/bank/service/baseURI.json", timeout=5)
        process.send_signal(stop)
        rest, errors = process.communicate(timeout=10)
    assert (answer.status_code, domain.status_code) == (200, 500)
    assert (process.returncode, rest, errors) == (0, "", "")


def test_the_command_says_when_its_port_is_taken(served: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run([*COMMAND, "--port", str(port)], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_command_refuses_a_fault_it_does_not_know_and_teaches_the_grammar() -> None:
    ended = subprocess.run([*COMMAND, "--fault", "gremlins"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "no fault called gremlins" in ended.stderr
    assert "429:every=7" in ended.stderr
