"""The page: its figures are those of SQL, it needs nothing beside it, and it fits a phone."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page

from aht_pipeline import warehouse as public
from aht_pipeline.days import Day
from aht_pipeline.report import Figures, as_html, read_figures
from aht_pipeline_tests.loading import ACCOUNT, load_each_day, query
from aht_pipeline_tests.outside import YESTERDAY, Outside, days_ago
from aht_pipeline_tests.test_reporting import random_segments

ZONE, DAY = "America/New_York", date(2026, 11, 1)
FIRST, LAST = DAY - timedelta(days=2), DAY + timedelta(days=1)
NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture(scope="module")
def warehouse(shared_database_url: str) -> sa.Engine:
    public.upgrade(shared_database_url)
    warehouse = public.engine(shared_database_url)
    segments = random_segments(ZONE, DAY, 200)
    settled = [one for one in segments if one["end_time"] < Day(DAY, ZONE).window.end]
    load_each_day(warehouse, settled, ZONE, pulled_at=NOW)
    load_each_day(
        warehouse, [one for one in segments if one not in settled], ZONE, pulled_at=datetime(2026, 11, 3, tzinfo=UTC)
    )
    load_each_day(
        warehouse, [one | {"segment_id": f"o{one['segment_id']}"} for one in segments], ZONE, account_id="other"
    )
    return warehouse


@pytest.fixture(scope="module")
def figures(warehouse: sa.Engine) -> Figures:
    return read_figures(warehouse, ACCOUNT, ZONE, FIRST, LAST, NOW)


@pytest.fixture(scope="module")
def html(figures: Figures) -> str:
    return as_html(figures)


def one_row(warehouse: sa.Engine, what: str, where: str = "true") -> tuple[object, ...]:
    day = f"(end_time AT TIME ZONE '{ZONE}')::date"
    (row,) = query(
        warehouse,
        f"SELECT {what} FROM aht.agent_segments WHERE account_id = :account AND {day} BETWEEN :first AND :last "
        f"AND {where.replace('DAY', day)}",
        account=ACCOUNT,
        first=FIRST,
        last=LAST,
    )
    found: tuple[object, ...] = row
    return found


def test_its_figures_are_those_of_the_segments(warehouse: sa.Engine, figures: Figures) -> None:
    sums = "count(*), sum(total_handle_time_ms)::float / 1000"
    quantiles = "percentile_cont(0.5) WITHIN GROUP (ORDER BY total_handle_time_ms) / 1000, " + (
        "percentile_cont(0.9) WITHIN GROUP (ORDER BY total_handle_time_ms) / 1000"
    )
    assert (figures.total.segments, figures.total.handle_seconds) == pytest.approx(one_row(warehouse, sums))
    for day in figures.days[1:]:
        shown = (day.measures.segments, day.measures.handle_seconds)
        assert shown == pytest.approx(one_row(warehouse, sums, f"DAY = '{day.day}'"))
    for keys, column in ((figures.skills, "skill_id"), (figures.groups, "group_id"), (figures.agents, "agent_id")):
        assert sum(one.measures.segments for one in keys) == figures.total.segments
        for one in keys:
            told = (one.measures.segments, one.measures.handle_seconds, one.median_seconds, one.p90_seconds)
            same = f"{column} IS NOT DISTINCT FROM {'NULL' if one.id is None else one.id}"
            assert told == pytest.approx(one_row(warehouse, f"{sums}, {quantiles}", same), abs=0.001)
    assert sum(one.measures.segments for one in figures.quarters) == figures.total.segments
    spread = sum(one.segments for one in figures.distribution)
    assert spread + figures.total.zero_handle == figures.total.segments
    for one_bin in figures.distribution:
        between = f"total_handle_time_ms / 1000.0 >= {one_bin.start_seconds - 1e-9} AND "
        between += f"total_handle_time_ms / 1000.0 < {one_bin.end_seconds - 1e-9}"
        assert (one_bin.segments, 1) == one_row(warehouse, "count(*), 1", between)


def test_the_page_shows_the_figures_and_what_is_missing_of_them(figures: Figures, html: str) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    assert f"Segments {figures.total.segments:,}" in text
    assert f"Average {figures.total.average_seconds:,.1f} s" in text
    for agent in figures.agents:
        row = (agent.name, f"{agent.measures.segments:,}", f"{agent.measures.handle_seconds / 3600:,.1f}")
        assert " ".join(str(cell) for cell in row) in text
    assert f"Provisional: {LAST}." in text
    assert f"Not in these figures: {FIRST} (not loaded)." in text
    assert f"{LAST} *" in text
    for day, state in zip(figures.days, ("missing", "settled", "settled", "provisional"), strict=True):
        assert f"{day.day} {state}" in text


class _Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_no_network_and_no_script(html: str) -> None:
    page = _Page(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    addresses = [value for _, name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(address.startswith("#") for address in addresses)
    assert "url(http" not in html
    assert "@import" not in html


def test_the_page_can_be_read_without_seeing_it(html: str) -> None:
    page = _Page(html)
    assert page.tags.count("svg") == 6
    described = [value for tag, name, value in page.attributes if (tag, name) == ("div", "aria-label")]
    assert sum(text.startswith("Chart: ") for text in described) == 6
    headers = page.tags.count("th")
    assert headers == sum(name == "scope" for tag, name, _ in page.attributes if tag == "th")
    ids = [value for _, name, value in page.attributes if name == "id"]
    targets = [value[1:] for _, name, value in page.attributes if name == "href"]
    assert set(targets) <= set(ids)


def test_colours_are_the_pages_own_so_that_dark_and_print_have_theirs(html: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    for chart in charts:
        colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', chart))
        assert all(colour.startswith("var(--") or colour in ("none", "transparent") for colour in colours), colours


def test_days_of_which_nothing_is_loaded_are_a_page_too(warehouse: sa.Engine) -> None:
    nothing = read_figures(warehouse, ACCOUNT, ZONE, date(2026, 1, 1), date(2026, 1, 2), NOW)
    assert "No segment of these days is loaded." in as_html(nothing)


def test_names_stand_where_they_are_known_and_ids_elsewhere(warehouse: sa.Engine) -> None:
    query(
        warehouse,
        "INSERT INTO aht.names (account_id, kind, id, name, is_deleted, first_seen_at, last_seen_at) "
        "SELECT :account, 'skill', 1, 'Billing <b>', false, now(), now()",
        account=ACCOUNT,
    )
    page = as_html(read_figures(warehouse, ACCOUNT, ZONE, FIRST, LAST, NOW))
    query(warehouse, "DELETE FROM aht.names")
    assert page.count("Billing &lt;b&gt;") >= 2  # in the chart and in the table
    assert "Billing <b>" not in page
    assert f">{2**40}</th>" in page


def test_what_the_figures_are_called_cannot_break_the_page(warehouse: sa.Engine) -> None:
    nothing = read_figures(warehouse, "<script>alert(1)</script>", ZONE, FIRST, LAST, NOW)
    assert "<script" not in as_html(nothing)


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_fits_every_width(page: Page, tmp_path: Path, html: str, width: int) -> None:
    file = tmp_path / "page.html"
    file.write_text(html, "utf-8")
    page.context.set_offline(True)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("svg").first.is_visible()


def test_days_in_the_wrong_order_are_refused(tmp_path: Path, database_url: str) -> None:
    public.upgrade(database_url)
    account = Outside(
        tmp_path, {"LIVEPERSON_ACCOUNT_ID": ACCOUNT, "WAREHOUSE_URL": database_url, "AHT_START_DATE": "2026-11-01"}
    )
    done = account.run("report", "--from", YESTERDAY, "--to", days_ago(2), "--html", "page.html", exit_code=2)
    assert f"--from {YESTERDAY} comes after --to {days_ago(2)}" in done.stderr
    assert not (tmp_path / "page.html").exists()
