"""Figures → one HTML page that needs nothing else: no network, no script, nothing beside it."""

from __future__ import annotations

from datetime import date
from importlib.resources import files

import jinja2

from aht_pipeline.coverage import ranges
from aht_pipeline.report import charts
from aht_pipeline.report.figures import Figures


def as_html(figures: Figures) -> str:
    """The whole page. Provisional days are marked; what was never loaded is named."""
    source = files("aht_pipeline.report").joinpath("page.html.jinja").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": _count, "seconds": _seconds, "hours": _hours, "percent": _percent, "clock": _clock}
    loaded = figures.days_that_are("settled", "provisional")
    return environment.from_string(source).render(
        figures=figures,
        first=figures.days[0].day,
        last=figures.days[-1].day,
        loaded=loaded,
        provisional=_spans(figures.days_that_are("provisional")),
        missing=_spans(figures.days_that_are("missing")),
        lost=_spans(figures.days_that_are("lost")),
        charts={
            "volume by day": charts.volume_by_day(figures.days),
            "average by day": charts.average_by_day(figures.days),
            "volume by quarter": charts.volume_by_quarter(figures.quarters, len(loaded)),
            "skills": charts.volume_by_key(figures.skills, "skill"),
            "groups": charts.volume_by_key(figures.groups, "group"),
            "distribution": charts.distribution(figures.distribution),
        }
        if figures.total.segments
        else {},
    )


def _spans(days: list[date]) -> list[str]:
    return [str(first) if first == last else f"{first} to {last}" for first, last in ranges(days)]


def _count(number: int) -> str:
    return f"{number:,}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f}"


def _percent(part: float | None) -> str:
    return "–" if part is None else f"{100 * part:.1f} %"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
