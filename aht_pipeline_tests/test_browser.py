"""A person at the Dagster UI: launches a backfill, sees the one bad day red, retries it, and sees all days green."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from aht_pipeline.simulator import ErrorStatus, GeneratedTraffic, Simulator, When
from aht_pipeline_tests.outside import YESTERDAY, Outside, days_ago, of_account

FIRST, POISONED = days_ago(12), days_ago(6)
ONE_TICK_OF_THE_DAEMON_AND_MORE_MS = 150_000


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(GeneratedTraffic(segments_per_day=60)) as running:
        yield running


@pytest.fixture
def account(tmp_path: Path, simulator: Simulator, database_url: str) -> Outside:
    return of_account(tmp_path, simulator, database_url, start=FIRST)


def test_a_backfill_with_a_bad_day_is_launched_seen_and_retried(
    page: Page, account: Outside, simulator: Simulator
) -> None:
    simulator.set_faults(ErrorStatus(403, when=When(day=POISONED)))
    with account.up() as url:
        page.goto(f"{url}/asset-groups")
        page.get_by_role("button", name="Materialize all").click()
        days = page.get_by_placeholder("No matching partitions")
        days.fill(f"[{FIRST}...{YESTERDAY}]")
        days.press("Enter")
        page.get_by_role("button", name="Launch backfill").click()

        expect_days(page, url, materialized=11, failed=1)
        assert dots_of_the_days(page)[str(POISONED)] != dots_of_the_days(page)[str(YESTERDAY)]
        assert len(set(dots_of_the_days(page).values())) == 2

        simulator.set_faults()
        page.goto(f"{url}/runs?view=backfills")
        page.locator('a[href^="/runs/b/"]').first.click()
        expect(page.get_by_text("Failed").first).to_be_visible(timeout=ONE_TICK_OF_THE_DAEMON_AND_MORE_MS)
        page.get_by_role("button").last.click()
        page.get_by_role("menuitem", name="Re-execute from failure").click()

        expect_days(page, url, materialized=12, failed=0)
        assert len(set(dots_of_the_days(page).values())) == 1

        page.goto(f"{url}/assets/agent_segments?view=checks")
        for check in ("complete", "few_rejects", "no_gaps", "usual_volume", "within_the_day"):
            expect(page.get_by_text(check, exact=True).first).to_be_visible()
        expect(page.get_by_text("Succeeded", exact=True)).to_have_count(5)
    assert account.query("SELECT count(*), count(DISTINCT day) FROM aht.loads") == [(12, 12)]


def expect_days(page: Page, url: str, materialized: int, failed: int) -> None:
    """Wait until the asset's page counts its days so."""
    page.goto(f"{url}/assets/agent_segments?view=partitions")
    for status, count in (("Materialized", materialized), ("Failed", failed)):
        counted = page.get_by_text(f"{status} ({count})", exact=True)
        expect(counted).to_be_visible(timeout=ONE_TICK_OF_THE_DAEMON_AND_MORE_MS)


def dots_of_the_days(page: Page) -> dict[str, str]:
    """The colour of the dot beside each day of the page's list."""
    found: dict[str, str] = page.evaluate(
        """() => {
            const colours = {};
            for (const day of document.querySelectorAll('div')) {
                if (day.children.length > 0 || !/^\\d{4}-\\d\\d-\\d\\d$/.test(day.textContent)) continue;
                for (let row = day.parentElement, depth = 0; row && depth < 5; row = row.parentElement, depth++) {
                    const dot = [...row.querySelectorAll('*')].find((element) => {
                        const box = element.getBoundingClientRect();
                        const style = getComputedStyle(element);
                        return box.width > 4 && box.width < 16 && box.width === box.height
                            && style.backgroundColor !== 'rgba(0, 0, 0, 0)';
                    });
                    if (dot) {
                        colours[day.textContent] = getComputedStyle(dot).backgroundColor;
                        break;
                    }
                }
            }
            return colours;
        }"""
    )
    return found
