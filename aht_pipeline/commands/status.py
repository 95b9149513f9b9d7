"""`status`: every day since the start date, and what is known of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from aht_pipeline.commands.configured import configured
from aht_pipeline.coverage import DayState, State, day_states, gaps
from aht_pipeline.days import iso
from aht_pipeline.errors import AhtError, CannotTell
from aht_pipeline.home import look_at_warehouse, refuse_another_timezone
from aht_pipeline.settings import Settings
from aht_pipeline.warehouse import day_records


def run_status(as_json: bool) -> int:
    """0 when no day is missing, 1 when one is that can still be fetched. Raises CannotTell when it cannot tell."""
    settings = configured()
    account = settings.require_account()
    try:
        warehouse = look_at_warehouse(settings)
        refuse_another_timezone(settings, warehouse)
        records = day_records(warehouse, account)
    except AhtError as error:
        raise CannotTell(str(error)) from None
    now = datetime.now(UTC)
    states = day_states(records, settings.start_date, settings.timezone, now)
    click.echo(_as_json(settings, states) if as_json else _as_table(states))
    if warning := gaps(states, now).text:
        click.echo(warning, err=True)
    return 1 if any(state.state is State.MISSING for state in states) else 0


def _as_json(settings: Settings, states: list[DayState]) -> str:
    days = [
        {
            "day": str(state.day),
            "state": state.state.value,
            "reported": state.record.reported if state.record else None,
            "loaded": state.record.loaded if state.record else None,
            "rejected": state.record.rejected if state.record else None,
            "lost_after": iso(state.lost_after) if state.lost_after else None,
        }
        for state in states
    ]
    return json.dumps({"account": settings.account_id, "timezone": settings.timezone, "days": days})


def _as_table(states: list[DayState]) -> str:
    lines = [f"{'day':<12}{'state':<13}{'reported':>10}{'loaded':>10}{'rejected':>10}"]
    for state in states:
        record = state.record if state.record and state.record.is_loaded else None
        figures = (
            f"{record.reported:>10,}{record.loaded:>10,}{record.rejected:>10,}"
            if record
            else f"{'–':>10}{'–':>10}{'–':>10}"
        )
        lines.append(f"{state.day!s:<12}{state.state:<13}{figures}{_remark(state)}")
    return "\n".join([*lines, "", _summary(states)])


def _remark(state: DayState) -> str:
    if state.state is State.MISSING:
        return f"  lost for ever after {iso(state.day.may_be_lost_after)}"
    if state.state is State.LOST:
        return "  the API no longer has it"
    return ""


def _summary(states: list[DayState]) -> str:
    counts = [f"{sum(one.state is state for one in states)} {state}" for state in State]
    missing = any(state.state is State.MISSING for state in states)
    return f"{len(states)} days: {', '.join(counts)}." + (
        " Fetch what is missing with: aht-pipeline load" if missing else ""
    )
