"""`report`: some days as a page to look at."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import click

from aht_pipeline.commands.configured import configured
from aht_pipeline.days import yesterday
from aht_pipeline.errors import SettingsError
from aht_pipeline.home import look_at_reports

_DAYS = 28


def run_report(first: date | None, last: date | None, file: Path) -> int:
    """0 when the page is written. Raises SettingsError where the days, or the libraries for it, are not right."""
    settings = configured()
    account = settings.require_account()
    try:
        from aht_pipeline.report import as_html, read_figures
        from aht_pipeline.report.figures import last_days, reported_timezone
    except ModuleNotFoundError as missing:
        raise SettingsError(
            f"the report needs {missing.name}, which is not installed: in the checkout, pip install '.[report]'"
        ) from None
    now = datetime.now(UTC)
    warehouse = look_at_reports(settings)
    timezone = reported_timezone(warehouse, account) or settings.timezone
    last = last or yesterday(timezone, now)
    first = first or last_days(last, _DAYS)[0]
    if first > last:
        raise SettingsError(f"--from {first} comes after --to {last}")
    figures = read_figures(warehouse, account, timezone, first, last, now)
    file.write_text(as_html(figures), "utf-8")
    click.echo(f"{file}: {first} to {last}, {figures.total.segments:,} segments", err=True)
    return 0
