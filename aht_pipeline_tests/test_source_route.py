"""What lies with this machine, a proxy, certificates, names of hosts, is told at once, with what to mend."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aht_pipeline.errors import AhtError, SettingsError
from aht_pipeline.services import AGENT_ACTIVITY
from aht_pipeline.source import AhtApi, ApiError, SegmentQuery
from aht_pipeline.source.route import route_to
from aht_pipeline_tests.proxies import Proxy, certificate, trusted_tls
from aht_pipeline_tests.reading import APP_KEYS, DAY, Answer, Asked, Reading, Scripted, reply

ELSEWHERE = "https://va.example.test"
SECRETS = ("us3r", "s3cret")


@pytest.fixture(autouse=True)
def no_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no certificates of this machine's own."""
    for kind in ("https", "http", "all", "no"):
        for name in (f"{kind}_proxy", f"{kind.upper()}_PROXY"):
            monkeypatch.delenv(name, raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def reading() -> Iterator[Reading]:
    with ExitStack() as closing:
        yield Reading(closing)


def ask(api: AhtApi) -> int:
    return api.page(SegmentQuery(DAY.window), 0).requests


def told_at_once(reading: Reading, caplog: pytest.LogCaptureFixture, url: str = ELSEWHERE, **options: Any) -> str:
    with pytest.raises(AhtError) as failure:
        ask(reading.api(url, APP_KEYS, **options))
    told = str(failure.value)
    assert "attempt" not in told
    assert "trying again" not in caplog.text
    for secret in SECRETS:
        assert secret not in told + repr(failure.value)
    return told


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
class TestAProxy:
    def test_that_is_dead_is_named(
        self,
        reading: Reading,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        variable: str,
    ) -> None:
        port = closed_port()
        monkeypatch.setenv(variable, f"http://us3r:s3cret@127.0.0.1:{port}")

        told = told_at_once(reading, caplog)

        assert f"the proxy http://127.0.0.1:{port}, which {variable} names" in told
        assert f"check {variable}" in told
        assert "name va.example.test in NO_PROXY" in told

    def test_that_is_not_found_is_named(
        self,
        reading: Reading,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        variable: str,
    ) -> None:
        monkeypatch.setenv(variable, "http://us3r:s3cret@proxy.invalid:3128")

        assert f"the proxy http://proxy.invalid:3128, which {variable} names" in told_at_once(reading, caplog)

    @pytest.mark.parametrize("scheme", ["socks4", "socks5", "socks5h", "SOCKS5H"])
    def test_for_which_a_package_is_missing_says_which(
        self,
        reading: Reading,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        variable: str,
        scheme: str,
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        monkeypatch.setenv(variable, f"{scheme}://us3r:s3cret@127.0.0.1:1080")

        told = told_at_once(reading, caplog)

        assert told.startswith(f"{variable}: ")
        assert "pip install 'requests[socks]'" in told

    @pytest.mark.parametrize(
        "url",
        [
            "http://us3r:s3cret#@127.0.0.1:3128",
            "http://us3r:12/s3cret@127.0.0.1:3128",
            "http://us3r:s3cret@",
            "http://:3128",
            "http:/127.0.0.1:3128",
            "http://127.0.0.1:99999",
            "http://127.0.0.1:port",
            "http://pro xy:3128",
            "ftp://us3r:s3cret@127.0.0.1:21",
        ],
    )
    def test_that_cannot_be_read_is_named_by_its_variable(
        self,
        reading: Reading,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        variable: str,
        url: str,
    ) -> None:
        monkeypatch.setenv(variable, url)

        assert told_at_once(reading, caplog).startswith(f"{variable}: ")

    @pytest.mark.parametrize(
        ("status", "advice"),
        [
            (407, "have {variable} hold the right user and password"),
            (403, "have the proxy allow va.example.test"),
            (404, "have the proxy allow va.example.test"),
            (302, "have the proxy allow va.example.test"),
        ],
    )
    def test_that_refuses_is_named(
        self,
        reading: Reading,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        variable: str,
        status: int,
        advice: str,
    ) -> None:
        with Proxy(refusal=status) as proxy:
            monkeypatch.setenv(variable, proxy.url)
            told = told_at_once(reading, caplog)

        assert f"the proxy {proxy.url}, which {variable} names, answered {status}" in told
        assert advice.format(variable=variable) in told
        assert proxy.asked_for == ["va.example.test:443"]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_proxy_that_does_not_reach_the_api_is_a_passing_fault(
    reading: Reading, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with Proxy(refusal=status) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(ApiError, match=rf"answered {status}.*given up at attempt 4: .*HTTPS_PROXY"):
            ask(reading.api(ELSEWHERE, APP_KEYS))

    assert len(proxy.asked_for) == 4


def test_a_proxy_that_hangs_up_is_a_passing_fault(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []

    def hang_up() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                heard.append(connection.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=hang_up, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ApiError, match="given up at attempt 4"):
            ask(reading.api(ELSEWHERE, APP_KEYS))
        server.shutdown(socket.SHUT_RDWR)

    assert len(heard) == 4


class TestOverTls:
    @pytest.fixture
    def secured(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
        server = Scripted(_empty_page, tls=trusted_tls(tmp_path, monkeypatch))
        try:
            yield server
        finally:
            server.stop()

    @pytest.mark.parametrize("scheme", ["http://", ""])
    def test_a_page_comes_through_a_proxy(
        self, reading: Reading, secured: Scripted, monkeypatch: pytest.MonkeyPatch, scheme: str
    ) -> None:
        with Proxy() as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://127.0.0.1", f"{scheme}localhost"))
            assert ask(reading.api(secured, APP_KEYS)) == 1

        assert proxy.asked_for == [secured.url.removeprefix("https://")]

    def test_a_host_that_needs_no_proxy_is_asked_without_one(
        self, reading: Reading, secured: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port()}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")

        assert ask(reading.api(secured, APP_KEYS)) == 1

    def test_a_proxy_that_dies_after_it_let_requests_through_is_a_passing_fault(
        self, reading: Reading, secured: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Proxy() as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            api = reading.api(secured, APP_KEYS)
            ask(api)
        api.http.close()  # as where an idle connection has ended

        with pytest.raises(ApiError, match=r"given up at attempt 4: check HTTPS_PROXY"):
            ask(api)

    @pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
    def test_authorities_of_ones_own_are_trusted(
        self, reading: Reading, secured: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
    ) -> None:
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        monkeypatch.setenv(variable, str(tmp_path / "server.pem"))

        assert ask(reading.api(secured, APP_KEYS)) == 1

    def test_a_certificate_that_is_not_trusted_names_the_variable_that_says_what_is(
        self,
        reading: Reading,
        secured: Scripted,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        (tmp_path / "other").mkdir()
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        assert "REQUESTS_CA_BUNDLE" in told_at_once(reading, caplog, secured.url)

        monkeypatch.setenv("SSL_CERT_FILE", str(certificate(tmp_path / "other")))
        assert "have SSL_CERT_FILE name a file" in told_at_once(reading, caplog, secured.url)


def _empty_page(asked: Asked) -> Answer:
    return reply(asked, [], pagination={"count": 0})


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("content", [None, "", "no certificate", "-----BEGIN CERTIFICATE-----\nMIIB\n"])
def test_a_file_of_certificates_that_is_none_is_named(
    reading: Reading,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
    content: str | None,
) -> None:
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv(variable, str(file))

    assert told_at_once(reading, caplog).startswith(f"{variable}: {file} cannot be used")


def test_what_the_environment_says_of_other_hosts_does_not_matter_on_this_machine(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    monkeypatch.setenv("ALL_PROXY", "socks5://")

    assert ask(reading.api(reading.simulator([]))) == 1


@pytest.mark.parametrize(
    ("options", "variable"),
    [
        ({"api_url": "https://nowhere.invalid"}, "LIVEPERSON_API_URL"),
        ({"service_urls": {AGENT_ACTIVITY: "https://nowhere.invalid/path"}}, "LIVEPERSON_AGENT_ACTIVITY_URL"),
        ({"api_url": None, "domain_api_url": "https://nowhere.invalid"}, "LIVEPERSON_DOMAIN_API_URL"),
    ],
)
def test_a_host_that_is_not_found_is_named_with_what_named_it(
    reading: Reading, caplog: pytest.LogCaptureFixture, options: dict[str, Any], variable: str
) -> None:
    told = told_at_once(reading, caplog, **options)

    assert "the host nowhere.invalid is not found by this machine" in told
    assert f"check this machine's network and DNS, and {variable}" in told


def test_a_setting_that_cannot_be_used_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("HTTPS_PROXY", "http://"), ("SSL_CERT_FILE", "/nowhere")):
        with monkeypatch.context() as set_wrong:
            set_wrong.setenv(variable, value)
            with pytest.raises(SettingsError, match=variable):
                route_to(ELSEWHERE)
