"""The page's charts as inline SVG: colours are the page's CSS variables, and every bar says what it stands for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert

from aht_pipeline.report.figures import Bin, DayFigures, KeyFigures, QuarterFigures

_WIDTH = 640
_MOST_BARS = 15
_DAYS_NAMED = 10
_NAME_CHARS = 20
_ROOM_FOR_A_LABEL = 1.12

_STYLE: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--quiet)",
        "titleColor": "var(--quiet)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelPadding": 6,
    },
    "axisLeft": {"minExtent": 44},
    "legend": {"labelColor": "var(--quiet)", "title": None, "orient": "top", "labelFontSize": 12},
    "bar": {"color": "var(--bar)"},
    "line": {"color": "var(--mark)", "strokeWidth": 2},
    "point": {"color": "var(--mark)", "filled": True, "size": 30},
}


def volume_by_day(days: Sequence[DayFigures]) -> str:
    """Segments a day; days that may still change are paler."""
    rows = [
        {"day": str(one.day), "segments": one.measures.segments, "may still change": one.state != "settled"}
        for one in days
    ]
    chart = (
        _chart_of(rows)
        .mark_bar()
        .encode(
            x=_by_day(days),
            y=alt.Y("segments:Q", title="segments", axis=alt.Axis(grid=True, tickCount=5)),
            opacity=alt.condition("datum['may still change']", alt.value(0.45), alt.value(1)),
        )
    )
    return _svg(chart, "Segments by day", 200)


def average_by_day(days: Sequence[DayFigures]) -> str:
    rows = [
        {"day": str(one.day), "seconds": round(one.measures.average_seconds, 1)}
        for one in days
        if one.measures.average_seconds is not None
    ]
    chart = (
        _chart_of(rows)
        .mark_line(point=True)
        .encode(
            x=_by_day(days),
            y=alt.Y(
                "seconds:Q", title="average handle time, s", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5)
            ),
        )
    )
    return _svg(chart, "Average handle time by day, in seconds", 160)


def volume_by_quarter(quarters: Sequence[QuarterFigures], days: int) -> str:
    """Segments that close in each quarter of an hour, on an average day."""
    rows = [
        {"hour": one.minute / 60, "end": one.minute / 60 + 0.25, "segments": one.measures.segments / days}
        for one in quarters
    ]
    chart = (
        _chart_of(rows)
        .mark_bar()
        .encode(
            x=alt.X(
                "hour:Q",
                title="hour of the day",
                scale=alt.Scale(domain=[0, 24]),
                axis=alt.Axis(values=list(range(0, 25, 3)), grid=False),
            ),
            x2="end:Q",
            y=alt.Y("segments:Q", title="segments a quarter", axis=alt.Axis(tickCount=5)),
            y2=alt.datum(0),
        )
    )
    return _svg(chart, "Segments by quarter of an hour, on an average day", 180)


def volume_by_key(found: Sequence[KeyFigures], what: str) -> str:
    """The keys with the most segments, and how long one takes on average."""
    rows = [
        {
            "place": place,
            "name": (one.name or "none")[:_NAME_CHARS],
            "segments": one.measures.segments,
            "seconds": f"{one.measures.average_seconds or 0:,.0f} s",
        }
        for place, one in enumerate(found[:_MOST_BARS])
    ]
    most = max(one.measures.segments for one in found)
    names = json.dumps([row["name"] for row in rows]) + "[datum.value]"
    base = _chart_of(rows).encode(
        # By place: two may have one name.
        y=alt.Y("place:O", title=None, axis=alt.Axis(labelExpr=names, minExtent=130, domain=False, ticks=False)),
        x=alt.X(
            "segments:Q",
            title="segments, and the average handle time of one",
            axis=alt.Axis(tickCount=5),
            scale=alt.Scale(domain=[0, most * _ROOM_FOR_A_LABEL], nice=False),
        ),
    )
    labels = base.mark_text(align="left", dx=4, color="var(--quiet)", fontSize=12).encode(text="seconds:N")
    return _svg(base.mark_bar() + labels, f"Segments by {what}, with the average handle time", 24 * max(len(rows), 1))


def distribution(bins: Sequence[Bin]) -> str:
    """How the handle times are spread, on a logarithmic scale."""
    rows = [{"start": one.start_seconds, "end": one.end_seconds, "segments": one.segments} for one in bins]
    chart = (
        _chart_of(rows)
        .mark_bar()
        .encode(
            x=alt.X(
                "start:Q",
                title="handle time (logarithmic)",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(
                    values=[1, 10, 60, 600, 3600, 36000],
                    labelExpr="datum.value < 60 ? datum.value + ' s' : datum.value < 3600 ? datum.value / 60 + ' min' "
                    ": datum.value / 3600 + ' h'",
                    grid=False,
                ),
            ),
            x2="end:Q",
            y=alt.Y("segments:Q", title="segments", axis=alt.Axis(tickCount=5)),
            y2=alt.datum(0),
        )
    )
    return _svg(chart, "How many segments took how long, on a logarithmic scale", 180)


def _by_day(days: Sequence[DayFigures]) -> alt.X:
    """Every day has its place, also one without a figure; as many are named as have room."""
    all_days = [str(one.day) for one in days]
    named = all_days[:: -(-len(all_days) // _DAYS_NAMED)]
    axis = alt.Axis(values=named, labelAngle=0, labelExpr="slice(datum.label, 5)", ticks=False)
    return alt.X("day:O", title=None, scale=alt.Scale(domain=all_days), axis=axis)


def _chart_of(rows: list[dict[str, Any]]) -> alt.Chart:
    return alt.Chart({"values": rows})


def _svg(chart: Any, described: str, height: int) -> str:
    sized = chart.properties(
        width=_WIDTH, height=height, description=described, autosize={"type": "fit-x", "contains": "padding"}
    )
    svg: str = vl_convert.vegalite_to_svg({**sized.to_dict(), "config": _STYLE})
    return svg
