"""What failed is posted once, with a link, to a webhook that may be dead; and a dead one harms no load."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aht_pipeline.alerts import AlertFailed, message, post
from aht_pipeline.days import Day
from aht_pipeline.simulator import ErrorStatus, ExplicitTraffic, GeneratedTraffic, Simulator, When, segment
from aht_pipeline.warehouse import engine
from aht_pipeline_tests import loading
from aht_pipeline_tests.outside import YESTERDAY, Outside, days_ago, eventually, of_account
from aht_pipeline_tests.test_dagster import Ui, noon_of

SECRET_PATH = "/services/T0/B0/very-secret"
POISONED = days_ago(2)


class Webhook:
    """An incoming webhook of one's own: keeps what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.status = 200
        self.dies_after: int | None = None  # so many texts
        self.texts: list[str] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == SECRET_PATH and webhook.status == 200:
                    webhook.texts.append(json.loads(body)["text"])
                self.send_response(webhook.status)
                if len(webhook.texts) == webhook.dies_after:
                    webhook.status = 503
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}{SECRET_PATH}"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    running = Webhook()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(GeneratedTraffic(segments_per_day=20)) as running:
        yield running


@pytest.fixture
def account(tmp_path: Path, simulator: Simulator, database_url: str, webhook: Webhook) -> Outside:
    outside = of_account(tmp_path, simulator, database_url, start=days_ago(4))
    outside.variables["AHT_ALERT_WEBHOOK_URL"] = webhook.url
    return outside


def test_a_load_tells_what_failed_in_it_once(account: Outside, simulator: Simulator, webhook: Webhook) -> None:
    simulator.set_faults(ErrorStatus(403, when=When(day=POISONED)))
    account.run("load", exit_code=1, AHT_UI_URL="https://dagster.example.test/")
    run, check = webhook.texts
    assert run.startswith("aht_pipeline, account demo: a run failed. 1 of 4 days failed")
    assert check.startswith(f"aht_pipeline, account demo: the check complete failed for 1 day.\n{POISONED}: ")
    assert "403" in run
    assert "https://dagster.example.test/runs/" in run.splitlines()[-1]
    assert run.splitlines()[-1] == check.splitlines()[-1]

    simulator.set_faults()
    account.run("load")
    assert len(webhook.texts) == 2


def test_a_dead_webhook_harms_no_load_and_is_told_later(
    account: Outside, simulator: Simulator, webhook: Webhook
) -> None:
    simulator.set_faults(ErrorStatus(403, when=When(day=POISONED)))
    webhook.status = 503
    done = account.run("load", exit_code=1)
    assert "3 of 4 days are complete" in done.stdout
    assert "the webhook of AHT_ALERT_WEBHOOK_URL answered with status 503" in done.stderr
    account.run("load", exit_code=1, AHT_ALERT_WEBHOOK_URL="http://127.0.0.1:9/nobody-listens")
    assert webhook.texts == []

    simulator.set_faults()
    webhook.status = 200
    done = account.run("load")
    assert ["a run failed" in text for text in webhook.texts] == [True, False, True]
    assert "very-secret" not in done.stdout + done.stderr + "".join(webhook.texts)


def test_what_a_webhook_did_not_take_is_told_later_and_the_rest_not_again(
    account: Outside, simulator: Simulator, webhook: Webhook
) -> None:
    simulator.set_faults(ErrorStatus(403, when=When(day=POISONED)))
    webhook.dies_after = 1
    account.run("load", exit_code=1)
    webhook.status, webhook.dies_after = 200, None
    simulator.set_faults()
    account.run("load", "--from", YESTERDAY)
    run, check = webhook.texts
    assert "a run failed" in run
    assert "the check complete failed for 1 day" in check


def test_the_daemon_tells_of_runs_and_gaps_once_with_a_link_to_the_ui(
    account: Outside, simulator: Simulator, webhook: Webhook
) -> None:
    account.variables["AHT_START_DATE"] = str(days_ago(40))
    account.run("load", "--from", days_ago(24), "--to", days_ago(23), AHT_ALERT_WEBHOOK_URL="")
    simulator.set_faults(ErrorStatus(403, when=When(day=POISONED)))
    with account.up() as url:
        eventually(lambda: len(webhook.texts) == 1)
        (gap,) = webhook.texts
        assert "may be lost for ever from" in gap
        assert f"{days_ago(40)}" in gap  # lost already
        assert gap.endswith(f"{url}/assets/agent_segments")
        Ui(url).launch_backfill(POISONED, YESTERDAY)
        eventually(lambda: len(webhook.texts) == 3)
        account.run("load", "--from", POISONED, exit_code=1)
    _, run, check, run_again = webhook.texts
    assert "a run failed" in run
    assert "the check complete failed for 1 day" in check
    assert f"{url}/runs/" in run
    assert "a run failed" in run_again  # but its check is no news


def test_a_night_that_fails_is_told_of(account: Outside, simulator: Simulator, webhook: Webhook) -> None:
    simulator.set_faults(ErrorStatus(403, when=When(day=POISONED)))
    account.variables["AHT_SCHEDULE"] = "* * * * *"  # a night a minute
    with account.up() as url:
        eventually(lambda: len(webhook.texts) >= 2)
    run, check = webhook.texts[:2]
    assert "a run failed. 1 of 4 days failed" in run
    assert f"{url}/runs/" in run
    assert f"the check complete failed for 1 day.\n{POISONED}" in check
    assert account.query("SELECT count(DISTINCT day) FROM aht.loads") == [(3,)]


def test_a_check_that_fails_again_is_no_news(account: Outside, simulator: Simulator, webhook: Webhook) -> None:
    warehouse = engine(account.variables["WAREHOUSE_URL"])
    for weeks in range(1, 5):
        noon = noon_of(YESTERDAY - timedelta(weeks=weeks))
        usual = loading.batch(*(loading.segment(100 * weeks + number, end_time=noon) for number in range(40)))
        loading.load(warehouse, usual, day=Day(noon.date(), "UTC"), account_id="demo")
    simulator.traffic = ExplicitTraffic(segment(number, noon_of(YESTERDAY)) for number in range(3))
    account.run("load", "--from", YESTERDAY)
    account.run("load", "--from", YESTERDAY, "--replay")
    low = [text for text in webhook.texts if "usual_volume" in text]
    assert [f"{YESTERDAY} has 3 segments" in text for text in low] == [True]


def test_teams_is_sent_a_card_and_everyone_else_a_text() -> None:
    assert message("https://hooks.slack.com/services/x", "one\ntwo") == {"text": "one\ntwo"}
    for_teams = message("https://prod-1.westeurope.logic.azure.com/workflows/x", "one\ntwo")
    (card,) = for_teams["attachments"]
    assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert [block["text"] for block in card["content"]["body"]] == ["one", "two"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/secret", "http://256.1.1.1/secret", "http://[::1]:9/secret"])
def test_a_webhook_that_cannot_be_reached_is_told_without_its_url(url: str) -> None:
    with pytest.raises(AlertFailed) as failure:
        post(url, "text")
    assert "secret" not in str(failure.value)
    assert failure.value.__cause__ is None
